//! The one form of an error: `{"error":"one sentence","hint":"what to do"}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::log::Grant;

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    error: String,
    hint: String,
    /// What stands against it, where the answer is about a promise.
    #[serde(skip_serializing_if = "Option::is_none")]
    promised: Option<Grant>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, body: Body { error: error.into(), hint: hint.into(), promised: None } }
    }

    /// The same, with the grant that was promised.
    pub(super) fn promised(mut self, grant: Grant) -> Self {
        self.body.promised = Some(grant);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

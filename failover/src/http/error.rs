//! The one form of an error: `{"error":"one sentence","hint":"what to do"}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

/// An answer that is an error.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The status of the answer.
    pub status: StatusCode,
    body: Body,
}

#[derive(Debug, Clone, Serialize)]
struct Body {
    error: String,
    hint: String,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl ApiError {
    /// `error` says in one sentence what is wrong, `hint` what to do.
    pub fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, body: Body { error: error.into(), hint: hint.into(), more: Map::new() } }
    }

    /// The same with one more field; what can't be JSON is left out.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.body.more.insert(field.to_owned(), value);
        }
        self
    }

    /// What is wrong.
    pub fn error(&self) -> &str {
        &self.body.error
    }

    /// 400: the request is not understood.
    pub fn bad_request(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint)
    }

    /// 409: it is understood and refused.
    pub fn conflict(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error, hint)
    }

    /// 503: it can't be done at present.
    pub fn unavailable(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, hint)
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

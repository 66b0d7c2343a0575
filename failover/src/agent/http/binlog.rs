//! `GET /v1/binlog` and `GET /v1/binlog/{file}?from=`: the server's binlog files as they lie on the disk, also when it is dead.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::routes::App;
use crate::agent::core::Core;
use crate::agent::stream;
use crate::agent::surplus::{binlog_files, binlog_number};
use crate::http::ApiError;

#[derive(Serialize)]
struct BinlogFile {
    file: String,
    size: u64,
}

#[derive(Deserialize)]
pub(super) struct From {
    #[serde(default)]
    from: u64,
}

fn base(core: &Core) -> Result<PathBuf, ApiError> {
    let known = core.known.get().server.map(|s| s.log_bin_basename).filter(|b| !b.as_os_str().is_empty());
    known.ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "it is not known where the server keeps its binlog: it has never answered, or it writes none",
            "start it once beside this agent",
        )
    })
}

/// All files, oldest first.
pub(super) async fn list(State(app): State<App>) -> Result<Response, ApiError> {
    let base = base(&app.core)?;
    let found = tokio::task::spawn_blocking(move || {
        let files = binlog_files(&base)?.into_iter().filter_map(|path| {
            let size = std::fs::metadata(&path).ok()?.len();
            Some(BinlogFile { file: path.file_name()?.to_str()?.to_owned(), size })
        });
        Ok::<Vec<BinlogFile>, io::Error>(files.collect())
    });
    let files = found.await.unwrap_or_else(|e| Err(io::Error::other(e)));
    let files =
        files.map_err(|e| ApiError::unavailable(format!("the binlog files can't be listed: {e}"), "see the disk"))?;
    Ok(Json(files).into_response())
}

/// The bytes of one file from an offset to its present end.
pub(super) async fn serve(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Result<Query<From>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(From { from }) =
        query.map_err(|e| ApiError::bad_request(e.body_text(), "write from=<offset in bytes>"))?;
    let base = base(&app.core)?;
    let path = base.with_file_name(&name);
    // Nothing but binlog files, and nothing from elsewhere.
    let is_binlog = !name.contains('/') && binlog_number(&base, &path).is_some();
    if !is_binlog {
        let error = format!("{name:?} is no binlog file of this server");
        return Err(ApiError::new(StatusCode::NOT_FOUND, error, "GET /v1/binlog lists them"));
    }
    let opened = tokio::task::spawn_blocking(move || open(path, from)).await;
    let (file, size) = opened.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| {
        let missing = e.kind() == io::ErrorKind::NotFound;
        let status = if missing { StatusCode::NOT_FOUND } else { StatusCode::SERVICE_UNAVAILABLE };
        ApiError::new(status, format!("{name} can't be read: {e}"), "GET /v1/binlog lists what there is")
    })?;
    let Some(length) = size.checked_sub(from) else {
        let error = format!("{name} has {size} bytes, less than {from}");
        return Err(ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, error, "ask from a lower offset"));
    };
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    // What is written meanwhile is not part of it.
    Ok((headers, stream::body(file.take(length), |_| Ok(()))).into_response())
}

/// The file at its offset, and its size.
fn open(path: PathBuf, from: u64) -> io::Result<(File, u64)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.min(size)))?;
    Ok((file, size))
}

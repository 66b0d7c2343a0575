//! HTTP/1.1 for the API server: one connection, request by request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Bytes of a head or a body, at most.
const MOST: u64 = 4 << 20;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// Answers every request of a connection until it ends.
pub(super) fn serve<S: Read + Write>(stream: S, answer: impl Fn(&Request) -> (u16, Value)) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream)? {
        let (status, body) = answer(&request);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            if status < 400 { "OK" } else { "Error" },
            body.len()
        );
        let to = stream.get_mut();
        to.write_all(head.as_bytes())?;
        to.write_all(body.as_bytes())?;
        to.flush()?;
    }
    Ok(())
}

fn read(stream: &mut impl BufRead) -> Result<Option<Request>> {
    let mut head = stream.take(MOST);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { bail!("no request line: {line:?}") };
    let (method, path) = (method.to_owned(), target.split('?').next().unwrap_or(target).to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            bail!("a head without end");
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').with_context(|| format!("no header: {line:?}"))?;
        headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    if headers.contains_key("transfer-encoding") {
        bail!("chunked requests are not understood");
    }
    let length: u64 = headers.get("content-length").map_or(Ok(0), |text| text.parse())?;
    if length > MOST {
        bail!("a body of {length} bytes");
    }
    let mut body = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut body)?;
    Ok(Some(Request { method, path, headers, body }))
}

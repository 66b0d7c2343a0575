//! `baton-failover health`: asks a URL, for images that have no shell and no curl.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::Method;
use secrecy::SecretString;

use crate::http::{Call, Client};

/// Bytes of an answer that are shown.
const SHOWN: usize = 2000;

/// Arguments of `health`.
#[derive(Debug, Clone, clap::Args)]
pub struct HealthArgs {
    /// What to ask: http://HOST:PORT/PATH.
    #[arg(value_name = "URL", env = "BATON_HEALTH_URL", default_value = "http://127.0.0.1:8091/healthz")]
    pub url: String,
    /// File with the bearer token, where reading needs one.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
}

/// Asks, prints the answer, and says by the exit code whether it is a success.
///
/// # Errors
/// The URL or the token file can't be used; no answer.
pub fn run(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let (at, path) = split(&args.url)?;
    let token = args.token_file.as_ref().map(|file| {
        let text = std::fs::read_to_string(file).with_context(|| format!("--token-file = {}", file.display()))?;
        anyhow::Ok(SecretString::from(text.trim_end_matches('\n')))
    });
    let client = Client::new(token.transpose()?.as_ref());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start the runtime")?;
    let call = Call { at: &at, method: Method::GET, path: &path, body: Bytes::new(), repeatable: true };
    let answer = runtime.block_on(client.call(call, Duration::from_secs(args.timeout)))?;
    let shown = String::from_utf8_lossy(answer.body.get(..SHOWN).unwrap_or(&answer.body));
    if answer.status.is_success() {
        println!("{}", shown.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{} answers {}: {}", args.url, answer.status, shown.trim_end());
}

/// `host:port`, and path with query.
fn split(url: &str) -> anyhow::Result<(String, String)> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("URL = {url:?}: allowed: http://HOST:PORT/PATH");
    };
    let (at, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let port = at.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
    if port.is_none() {
        bail!("URL = {url:?}: allowed: http://HOST:PORT/PATH, with the port");
    }
    Ok((at.to_owned(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn serve_once(status: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _request = stream.read(&mut [0; 2048]);
            let _sent = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello").as_bytes());
        });
        format!("http://{address}/readyz")
    }

    fn ask(url: String) -> anyhow::Result<ExitCode> {
        run(&HealthArgs { url, token_file: None, timeout: 10 })
    }

    #[test]
    fn a_success_ends_with_success() {
        assert_eq!(ask(serve_once("200 OK")).unwrap(), ExitCode::SUCCESS);
    }

    #[test]
    fn an_error_is_told_with_what_was_answered() {
        let error = ask(serve_once("503 Service Unavailable")).unwrap_err().to_string();
        assert!(error.contains("503") && error.contains("hello"), "{error}");
    }

    #[test]
    fn nobody_there_is_an_error() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(format!("http://{gone}/")).is_err());
    }

    #[test]
    fn urls_that_can_not_be_asked_are_refused_by_name() {
        for url in ["https://a:1/", "a:1/", "http://a/", "http://:1/", "http://a:x/", ""] {
            assert!(split(url).unwrap_err().to_string().contains(&format!("{url:?}")));
        }
        assert_eq!(split("http://a:1").unwrap(), ("a:1".to_owned(), "/".to_owned()));
        assert_eq!(split("http://[::1]:1/b?c").unwrap(), ("[::1]:1".to_owned(), "/b?c".to_owned()));
    }
}

//! ClusterIPs: each port of a Service is taken by a thread that passes connections on to one of the endpoints it has at that moment, as kube-proxy's
//! userspace mode did. Without endpoints connections are ended at once.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Host;

/// For connecting to an endpoint.
const CONNECT: Duration = Duration::from_secs(2);
/// How often is looked for connections and for the end.
const TURN: Duration = Duration::from_millis(2);

/// Ends when dropped.
pub(super) struct Forward(Arc<AtomicBool>);

impl Forward {
    /// Listens at `ip:port` on `host`; `endpoints` says where connections may go to.
    pub(super) fn start(
        host: &Host,
        ip: Ipv4Addr,
        port: u16,
        endpoints: impl Fn() -> Vec<SocketAddr> + Send + 'static,
    ) -> Result<Self> {
        let listener =
            host.inside(|| Ok(TcpListener::bind((ip, port))?)).with_context(|| format!("ClusterIP {ip}:{port}"))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, host, turn) = (Arc::clone(&stop), host.clone(), AtomicUsize::new(0));
        thread::Builder::new().name(format!("service-{port}")).spawn(move || {
            if host.enter().is_err() {
                return;
            }
            drop(host);
            while !stopped.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(TURN);
                    continue;
                };
                let all = endpoints();
                let next = turn.fetch_add(1, Ordering::Relaxed);
                let server = all.get(next % all.len().max(1)).map(|at| TcpStream::connect_timeout(at, CONNECT));
                if let Some(Ok(server)) = server {
                    let _best_effort = join(&client, &server);
                }
            }
        })?;
        Ok(Self(stop))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn join(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    for (from, to) in [(client, server), (server, client)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            let _ended = io::copy(&mut from, &mut to);
            let _gone_already = to.shutdown(Shutdown::Both);
            let _gone_already = from.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

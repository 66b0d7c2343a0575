//! An interface below IP: asks whether somebody has an address, and tells that it is here.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::net::if_::InterfaceFlags;
use nix::sys::socket::LinkAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, eth, recv, send, socket_with};

use super::frames::{Mac, announcements, claimed_by, probe};

/// Questions asked before an address is taken, and the time after each: a kernel on the same network answers within one.
const PROBES: u32 = 2;
const PROBE_GAP: Duration = Duration::from_millis(15);

/// A packet socket on an interface.
pub(super) struct Link {
    socket: OwnedFd,
    mac: Mac,
}

impl Link {
    /// For one address family; none if the interface has no hardware address: then there are no neighbours to ask or to tell.
    ///
    /// # Errors
    /// There is no such interface, or this process may not (`CAP_NET_RAW`).
    pub(super) fn open(interface: &str, ip: IpAddr) -> io::Result<Option<Self>> {
        let Some(link) = hardware(interface)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {interface}")));
        };
        let Some(mac) = link.addr().filter(|mac| *mac != [0; 6]) else { return Ok(None) };
        let protocol = if ip.is_ipv4() { eth::ARP } else { eth::IPV6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol))?;
        // The link's address names no protocol: the socket's own stays in force (packet(7)).
        nix::sys::socket::bind(socket.as_raw_fd(), &link)?;
        Ok(Some(Self { socket, mac }))
    }

    /// Asks whether somebody has the address, for about 30 ms; who, if anybody but those whom `passes` lets pass.
    ///
    /// # Errors
    /// Nothing can be sent (the interface is down).
    pub(super) fn ask(&self, ip: IpAddr, mut passes: impl FnMut(Mac) -> bool) -> io::Result<Option<Mac>> {
        let mut frame = [0_u8; 2048];
        for _ in 0..PROBES {
            send(&self.socket, &probe(self.mac, ip), SendFlags::empty())?;
            let until = Instant::now() + PROBE_GAP;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
                if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left))? == 0 {
                    break;
                }
                let length = match recv(&self.socket, &mut frame[..], RecvFlags::empty()) {
                    Ok((_, length)) => length,
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
                    Err(e) => return Err(e.into()),
                };
                if let Some(mac) = claimed_by(frame.get(..length).unwrap_or_default(), self.mac, ip) {
                    if !passes(mac) {
                        return Ok(Some(mac));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Tells everybody that the address is here.
    ///
    /// # Errors
    /// Nothing can be sent.
    pub(super) fn announce(&self, ip: IpAddr) -> io::Result<()> {
        for frame in announcements(self.mac, ip) {
            send(&self.socket, &frame, SendFlags::empty())?;
        }
        Ok(())
    }
}

/// The interface's hardware address, if it has one.
pub(super) fn mac_of(interface: &str) -> Option<Mac> {
    hardware(interface).ok().flatten()?.addr().filter(|mac| *mac != [0; 6])
}

/// Whether anybody is at the other end of the interface's cable, as the kernel believes. An interface without such a notion always says so.
///
/// # Errors
/// The interfaces can't be listed.
pub(super) fn carries(interface: &str) -> io::Result<bool> {
    let mut of_it = nix::ifaddrs::getifaddrs()?.filter(|i| i.interface_name == interface);
    Ok(of_it.any(|i| i.flags.contains(InterfaceFlags::IFF_RUNNING)))
}

fn hardware(interface: &str) -> io::Result<Option<LinkAddr>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let mut of_it = all.filter(|i| i.interface_name == interface).filter_map(|i| i.address);
    Ok(of_it.find_map(|a| a.as_link_addr().copied()))
}

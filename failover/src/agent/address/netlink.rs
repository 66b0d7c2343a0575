//! Addresses of an interface, by rtnetlink (rtnetlink(7), netlink(7)): added with a lifetime, renewed, removed.
//!
//! Promises: an address goes away by itself once its lifetime is over, whatever becomes of this process. Every request waits for the kernel's
//! answer, which comes at once.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use super::Vip;

/// Protocol 0 of the family.
const NETLINK_ROUTE: Option<Protocol> = None;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
/// No duplicate address detection by the kernel: the address would be tentative for a second.
const IFA_F_NODAD: u8 = 0x02;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes of a `nlmsghdr`.
const HEADER: usize = 16;
/// The kernel answers while the request is sent.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How long an address stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Unless it is renewed.
    For(Duration),
    /// Until somebody removes it.
    Ever,
}

/// A socket to the kernel.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens it.
    ///
    /// # Errors
    /// Those of `socket` and `bind`.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, NETLINK_ROUTE)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The index of an interface.
    ///
    /// # Errors
    /// There is none of that name (`ENODEV`).
    pub(super) fn index(&self, interface: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.socket, interface)?)
    }

    /// Adds the address, or renews its lifetime.
    ///
    /// # Errors
    /// The kernel's, such as `EPERM` without `CAP_NET_ADMIN`.
    pub(super) fn add(&mut self, index: u32, vip: Vip, lifetime: Lifetime) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE;
        let sequence = self.next();
        self.request(&message(RTM_NEWADDR, flags, sequence, index, vip, Some(lifetime)), sequence)
    }

    /// Removes the address; whether it was there.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn remove(&mut self, index: u32, vip: Vip) -> io::Result<bool> {
        let sequence = self.next();
        match self.request(&message(RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK, sequence, index, vip, None), sequence) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::ADDRNOTAVAIL.raw_os_error()) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn request(&self, message: &[u8], sequence: u32) -> io::Result<()> {
        sendto(&self.socket, message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0_u8; 4096];
        loop {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            if poll(&mut fds, Some(&PATIENCE))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let (_, length) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
            if let Some(error) = acknowledged(answer.get(..length).unwrap_or_default(), sequence) {
                return if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) };
            }
        }
    }
}

/// A whole request: `nlmsghdr`, `ifaddrmsg`, attributes. Numbers are in the host's order.
fn message(kind: u16, flags: u16, sequence: u32, index: u32, vip: Vip, lifetime: Option<Lifetime>) -> Vec<u8> {
    let (family, address) = match vip.ip {
        IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
    };
    let mut m = vec![0_u8; 4];
    m.extend(kind.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend(sequence.to_ne_bytes());
    m.extend(0_u32.to_ne_bytes());
    let scope_global = 0;
    let address_flags = if vip.ip.is_ipv6() { IFA_F_NODAD } else { 0 };
    m.extend([family, vip.prefix, address_flags, scope_global]);
    m.extend(index.to_ne_bytes());
    attribute(&mut m, IFA_LOCAL, &address);
    attribute(&mut m, IFA_ADDRESS, &address);
    if let Some(lifetime) = lifetime {
        let valid = match lifetime {
            Lifetime::For(time) => u32::try_from(time.as_secs()).unwrap_or(u32::MAX - 1).max(1),
            // The kernel's `INFINITY_LIFE_TIME`.
            Lifetime::Ever => u32::MAX,
        };
        // Not preferred: this host's own connections do not come from an address that may go away. IPv4 knows no such difference.
        let preferred = if vip.ip.is_ipv6() { 0 } else { valid };
        let mut info = Vec::new();
        for number in [preferred, valid, 0, 0] {
            info.extend(number.to_ne_bytes());
        }
        attribute(&mut m, IFA_CACHEINFO, &info);
    }
    let length = u32::try_from(m.len()).unwrap_or_default();
    m.splice(..4, length.to_ne_bytes());
    m
}

fn attribute(m: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or_default();
    m.extend(length.to_ne_bytes());
    m.extend(kind.to_ne_bytes());
    m.extend(value);
    m.resize(m.len().next_multiple_of(4), 0);
}

/// The error number (0: none) that answers the request `sequence`, if that is what this is.
fn acknowledged(answer: &[u8], sequence: u32) -> Option<i32> {
    let two = |at: usize| answer.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
    let four = |at: usize| answer.get(at..at + 4)?.try_into().ok();
    let is_ours = two(4)? == NLMSG_ERROR && u32::from_ne_bytes(four(8)?) == sequence;
    if is_ours { four(HEADER).map(i32::from_ne_bytes) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let vip = "10.0.0.100/24".parse().unwrap();
        let m = message(RTM_NEWADDR, 0x505, 7, 3, vip, Some(Lifetime::For(Duration::from_secs(5))));
        assert_eq!(m.len(), 16 + 8 + 8 + 8 + 20);
        assert_eq!(m[..4], 60_u32.to_ne_bytes());
        assert_eq!(m[16..20], [AF_INET, 24, 0, 0]);
        assert_eq!(m[28..32], [10, 0, 0, 100]);
        assert_eq!(m[44..52], [5_u32.to_ne_bytes(), 5_u32.to_ne_bytes()].concat());
        let m = message(RTM_NEWADDR, 0x505, 7, 3, vip, Some(Lifetime::Ever));
        assert_eq!(m[44..52], [0xff; 8]);
        let vip = "fd00::100/64".parse().unwrap();
        let m = message(RTM_DELADDR, 0x5, 7, 3, vip, None);
        assert_eq!((m.len(), m[16..20].to_vec()), (16 + 8 + 20 + 20, vec![AF_INET6, 64, IFA_F_NODAD, 0]));
    }

    #[test]
    fn only_the_answer_to_the_request_counts() {
        let answer = |kind: u16, sequence: u32, error: i32| {
            let mut a = 36_u32.to_ne_bytes().to_vec();
            a.extend(kind.to_ne_bytes());
            a.extend([0, 0]);
            a.extend(sequence.to_ne_bytes());
            a.extend([0; 4]);
            a.extend(error.to_ne_bytes());
            a
        };
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, 7, 0), 7), Some(0));
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, 7, -1), 7), Some(-1));
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, 6, 0), 7), None);
        assert_eq!(acknowledged(&answer(RTM_NEWADDR, 7, 0), 7), None);
        assert_eq!(acknowledged(&[], 7), None);
    }
}

//! Frames that ask who has an address, and that tell everybody who has it now. Pure.
//!
//! IPv4: ARP (RFC 826, probes and announcements as in RFC 5227). IPv6: neighbour solicitation and unsolicited advertisement (RFC 4861, 4862).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A hardware address.
pub(super) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Bytes of an Ethernet header, and of an IPv6 header.
const ETHERNET: usize = 14;
const IPV6: usize = 40;

/// Asks who has `ip`, as somebody who has no address.
pub(super) fn probe(mac: Mac, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(mac, ARP_REQUEST, Ipv4Addr::UNSPECIFIED, [0; 6], ip),
        IpAddr::V6(ip) => {
            let [.., a, b, c] = ip.octets();
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
            let mut body = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            body.extend(ip.octets());
            icmpv6(mac, [0x33, 0x33, 0xff, a, b, c], Ipv6Addr::UNSPECIFIED, group, body)
        }
    }
}

/// Tells everybody that `ip` is here: what neighbours have in their tables is overwritten.
pub(super) fn announcements(mac: Mac, ip: IpAddr) -> Vec<Vec<u8>> {
    match ip {
        // Some listen to requests only, some to replies only.
        IpAddr::V4(ip) => vec![arp(mac, ARP_REQUEST, ip, [0; 6], ip), arp(mac, ARP_REPLY, ip, BROADCAST, ip)],
        IpAddr::V6(ip) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let overrides = 0x20;
            let mut body = vec![ADVERTISEMENT, 0, 0, 0, overrides, 0, 0, 0];
            body.extend(ip.octets());
            let target_link_layer_address = 2;
            body.extend([target_link_layer_address, 1]);
            body.extend(mac);
            vec![icmpv6(mac, [0x33, 0x33, 0, 0, 0, 1], ip, all_nodes, body)]
        }
    }
}

/// Who else has `ip`, or wants it as we do, if the frame says so.
pub(super) fn claimed_by(frame: &[u8], ours: Mac, ip: IpAddr) -> Option<Mac> {
    let source: Mac = frame.get(6..12)?.try_into().ok()?;
    let kind = frame.get(12..14)?;
    let other = match ip {
        IpAddr::V4(ip) if kind == ETHERTYPE_ARP => {
            let arp = frame.get(ETHERNET..ETHERNET + 28)?;
            let sender: Mac = arp.get(8..14)?.try_into().ok()?;
            let has = arp.get(14..18)? == ip.octets();
            has.then_some(sender)
        }
        IpAddr::V6(ip) if kind == ETHERTYPE_IPV6 => {
            let packet = frame.get(ETHERNET..)?;
            let body = packet.get(IPV6..)?;
            let is_advertisement = *packet.get(6)? == ICMPV6 && *body.first()? == ADVERTISEMENT;
            let has = is_advertisement && body.get(8..24)? == ip.octets();
            has.then_some(source)
        }
        _ => None,
    };
    other.filter(|mac| *mac != ours)
}

/// What [`shown`] has written; none if it is something else.
pub(super) fn read(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = parts.next().filter(|p| p.len() == 2).and_then(|p| u8::from_str_radix(p, 16).ok())?;
    }
    parts.next().is_none().then_some(mac)
}

/// `00:11:22:33:44:55`.
pub(super) fn shown(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn arp(mac: Mac, operation: u8, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut f = BROADCAST.to_vec();
    f.extend(mac);
    f.extend(ETHERTYPE_ARP);
    // Ethernet and IPv4, with the lengths of their addresses.
    f.extend([0, 1, 0x08, 0x00, 6, 4, 0, operation]);
    f.extend(mac);
    f.extend(sender.octets());
    f.extend(target_mac);
    f.extend(target.octets());
    // The shortest frame that there is.
    f.resize(60, 0);
    f
}

fn icmpv6(mac: Mac, to: Mac, source: Ipv6Addr, destination: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or_default();
    let sum = checksum(source, destination, &body);
    if let Some(field) = body.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let mut f = to.to_vec();
    f.extend(mac);
    f.extend(ETHERTYPE_IPV6);
    f.extend([0x60, 0, 0, 0]);
    f.extend(length.to_be_bytes());
    let hop_limit = 255;
    f.extend([ICMPV6, hop_limit]);
    f.extend(source.octets());
    f.extend(destination.octets());
    f.extend(body);
    f
}

/// RFC 1071 over the pseudo-header of RFC 8200, 8.1.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or_default();
    let mut bytes = source.octets().to_vec();
    bytes.extend(destination.octets());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, ICMPV6]);
    bytes.extend(body);
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or_default();
        sum += u32::from(pair.first().copied().unwrap_or_default()) << 8 | u32::from(low);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn hardware_addresses_are_read_as_they_are_written() {
        assert_eq!(read(&shown(THEIRS)), Some(THEIRS));
        assert_eq!(read("0A:1b:2c:3d:4e:5f"), Some([0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f]));
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "02:00:00:00:00:zz", "0200.0000.0001"]
        {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_arp_probe_has_no_sender_and_an_announcement_has_the_address_on_both_sides() {
        let ip: Ipv4Addr = "10.0.0.100".parse().unwrap();
        let probe = probe(OURS, ip.into());
        assert_eq!((&probe[28..32], &probe[38..42]), (&[0, 0, 0, 0][..], &ip.octets()[..]));
        for frame in announcements(OURS, ip.into()) {
            assert_eq!((frame.len(), &frame[28..32], &frame[38..42]), (60, &ip.octets()[..], &ip.octets()[..]));
        }
    }

    #[test]
    fn an_advertisement_sums_up_to_nothing() {
        let ip: Ipv6Addr = "fd00::100".parse().unwrap();
        let frames = announcements(OURS, ip.into());
        let packet = &frames[0][ETHERNET..];
        let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
        // A sum over what includes its own complement is zero.
        assert_eq!(checksum(ip, all_nodes, &packet[IPV6..]), 0);
        assert_eq!(packet[4..6], [0, 32]);
    }

    #[test]
    fn whoever_else_has_the_address_is_named_and_nobody_else() {
        for ip in ["10.0.0.100", "fd00::100"] {
            let ip: IpAddr = ip.parse().unwrap();
            let other: IpAddr = if ip.is_ipv4() { "10.0.0.101" } else { "fd00::101" }.parse().unwrap();
            for frame in announcements(THEIRS, ip) {
                assert_eq!(claimed_by(&frame, OURS, ip), Some(THEIRS));
                assert_eq!(claimed_by(&frame, THEIRS, ip), None, "our own");
                assert_eq!(claimed_by(&frame, OURS, other), None, "about another address");
                for cut in 0..frame.len().min(40) {
                    assert_eq!(claimed_by(&frame[..cut], OURS, ip), None, "cut at {cut}");
                }
            }
            assert_eq!(claimed_by(&probe(THEIRS, ip), OURS, ip), None, "a question is no claim");
        }
        assert_eq!(shown(OURS), "02:00:00:00:00:01");
    }
}

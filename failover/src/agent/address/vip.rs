//! The virtual IP as it is written. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vip {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network, 1 to 32 or 128.
    pub prefix: u8,
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl FromStr for Vip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "allowed: an address and its prefix, such as \"10.0.0.100/24\" or \"fd00::100/64\"";
        let (ip, prefix) = text.split_once('/').ok_or_else(|| format!("the prefix is missing; {FORM}"))?;
        let ip: IpAddr = ip.parse().map_err(|_| format!("{ip:?} is no IP address; {FORM}"))?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{prefix:?} is no prefix; {FORM}"));
        }
        let prefix = prefix.parse().ok().filter(|p| (1..=most).contains(p));
        let prefix = prefix.ok_or_else(|| format!("the prefix has to be 1 to {most}; {FORM}"))?;
        let scoped = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || scoped {
            return Err(format!("{ip} can't be moved between hosts; {FORM}"));
        }
        Ok(Self { ip, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_prefix_are_read_and_printed_as_written() {
        for good in ["10.0.0.100/24", "192.168.1.9/32", "fd00::100/64", "2001:db8::1/128"] {
            assert_eq!(good.parse::<Vip>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "10.0.0.100",
            "10.0.0.100/",
            "10.0.0.100/0",
            "10.0.0.100/33",
            "10.0.0.100/+4",
            "10.0.0/24",
            "db-1/24",
            "fd00::1/129",
            "0.0.0.0/8",
            "127.0.0.1/8",
            "::1/128",
            "224.0.0.1/24",
            "fe80::1/64",
        ] {
            bad.parse::<Vip>().unwrap_err();
        }
    }
}

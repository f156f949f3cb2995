//! `ip` and `cidr`: addresses and networks, as Go's netip reads them.

use super::{Args, Function, Output, bad_arguments, bool_of, err};
use crate::value::{Opaque, Val};
use std::{fmt, net::IpAddr};

/// A network: an address, with bits beside the prefix kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

impl Cidr {
    fn mask(&self) -> u128 {
        if self.prefix == 0 { 0 } else { u128::MAX << (128 - u32::from(self.prefix)) }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let ((own, width), (other, other_width)) = (bits(self.address), bits(ip));
        width == other_width && (own ^ other) & self.mask() == 0
    }

    fn contains_cidr(&self, other: &Cidr) -> bool {
        other.prefix >= self.prefix && self.contains(other.address)
    }

    fn masked(&self) -> Cidr {
        let (value, width) = bits(self.address);
        let value = value & self.mask();
        let address = if width == 32 {
            IpAddr::V4(u32::try_from(value >> 96).unwrap_or(0).into())
        } else {
            IpAddr::V6(value.into())
        };
        Cidr { address, prefix: self.prefix }
    }
}

/// An address: no zone, and no IPv4 address in IPv6 clothes.
fn parse_ip(s: &str) -> Result<IpAddr, String> {
    let fail = |why: &str| {
        Err(format!("IP Address {s:?} parse error during conversion from string: {why}"))
    };
    match s.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            fail("IPv4-mapped IPv6 address is not allowed")
        }
        Ok(ip) => Ok(ip),
        Err(_) if s.contains('%') => fail("IP address with zone value is not allowed"),
        Err(_) => fail(&format!("ParseAddr({s:?}): unable to parse IP")),
    }
}

fn parse_cidr(s: &str) -> Result<Cidr, String> {
    let fail = |why: String| {
        Err(format!("network address parse error during conversion from string: {why}"))
    };
    let Some((address, prefix)) = s.rsplit_once('/') else {
        return fail(format!("netip.ParsePrefix({s:?}): no '/'"));
    };
    let Ok(ip) = address.parse::<IpAddr>() else {
        return fail(format!(
            "netip.ParsePrefix({s:?}): ParseAddr({address:?}): unable to parse IP"
        ));
    };
    if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return fail("IPv4-mapped IPv6 address is not allowed".into());
    }
    let plain = !prefix.is_empty()
        && prefix.bytes().all(|b| b.is_ascii_digit())
        && (prefix == "0" || !prefix.starts_with('0'));
    match prefix.parse::<u8>().ok().filter(|p| plain && *p <= bits(ip).1) {
        Some(prefix) => Ok(Cidr { address: ip, prefix }),
        None => fail(format!("netip.ParsePrefix({s:?}): bad bits after slash: {prefix:?}")),
    }
}

fn ip_val<'a>(ip: IpAddr) -> Val<'a> {
    Val::Opaque(Opaque::Ip(ip))
}

fn test<'a>(args: Args<'_, 'a>, holds: fn(&IpAddr) -> bool) -> Output<'a> {
    match args {
        [Val::Opaque(Opaque::Ip(ip))] => Ok(Val::Bool(holds(ip))),
        _ => bad_arguments(),
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast
        && !ip.is_unspecified()
        && !ip.is_loopback()
        && !ip.is_multicast()
        && !link_local_unicast(ip)
}

fn ip_function<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::String(s)] => parse_ip(s).map(ip_val).map_err(err),
        [Val::Opaque(Opaque::Cidr(c))] => Ok(ip_val(c.address)),
        _ => bad_arguments(),
    }
}

fn family<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Opaque(Opaque::Ip(ip))] => Ok(Val::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => bad_arguments(),
    }
}

fn is_canonical<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::String(s)] => {
            parse_ip(s).map(|ip| Val::Bool(ip.to_string() == s.as_ref())).map_err(err)
        }
        _ => bad_arguments(),
    }
}

fn contains_ip<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Opaque(Opaque::Cidr(c)), Val::String(s)] => {
            parse_ip(s).map(|ip| Val::Bool(c.contains(ip))).map_err(err)
        }
        [Val::Opaque(Opaque::Cidr(c)), Val::Opaque(Opaque::Ip(ip))] => {
            Ok(Val::Bool(c.contains(*ip)))
        }
        _ => bad_arguments(),
    }
}

fn contains_cidr<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Opaque(Opaque::Cidr(c)), Val::String(s)] => {
            parse_cidr(s).map(|o| Val::Bool(c.contains_cidr(&o))).map_err(err)
        }
        [Val::Opaque(Opaque::Cidr(c)), Val::Opaque(Opaque::Cidr(o))] => {
            Ok(Val::Bool(c.contains_cidr(o)))
        }
        _ => bad_arguments(),
    }
}

fn cidr_function<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::String(s)] => parse_cidr(s).map(|c| Val::Opaque(Opaque::Cidr(c))).map_err(err),
        _ => bad_arguments(),
    }
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("ip", ip_function),
    ("isIP", |a| bool_of(a, |s| parse_ip(s).is_ok())),
    ("ip.isCanonical", is_canonical),
    ("family", family),
    ("isUnspecified", |a| test(a, IpAddr::is_unspecified)),
    ("isLoopback", |a| test(a, IpAddr::is_loopback)),
    ("isLinkLocalMulticast", |a| test(a, link_local_multicast)),
    ("isLinkLocalUnicast", |a| test(a, link_local_unicast)),
    ("isGlobalUnicast", |a| test(a, global_unicast)),
    ("cidr", cidr_function),
    ("isCIDR", |a| bool_of(a, |s| parse_cidr(s).is_ok())),
    ("containsIP", contains_ip),
    ("containsCIDR", contains_cidr),
    ("masked", |a| match a {
        [Val::Opaque(Opaque::Cidr(c))] => Ok(Val::Opaque(Opaque::Cidr(c.masked()))),
        _ => bad_arguments(),
    }),
    ("prefixLength", |a| match a {
        [Val::Opaque(Opaque::Cidr(c))] => Ok(Val::Int(c.prefix.into())),
        _ => bad_arguments(),
    }),
];

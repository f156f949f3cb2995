//! Values of the libraries' own types: addresses, quantities, versions, URLs, named formats.

use crate::library::{format::Format, net::Cidr, semver::Semver, url::Url};
use coracle_meta::Quantity;
use std::{fmt, net::IpAddr, sync::Arc};

/// A value that only a library's functions look into.
#[derive(Clone, Debug, PartialEq)]
pub enum Opaque {
    /// `url('https://…')`.
    Url(Arc<Url>),
    /// `ip('10.0.0.1')`.
    Ip(IpAddr),
    /// `cidr('10.0.0.0/8')`.
    Cidr(Cidr),
    /// `quantity('1Gi')`.
    Quantity(Quantity),
    /// `semver('1.2.3')`.
    Semver(Arc<Semver>),
    /// `format.dns1123Label()`.
    Format(Format),
}

impl Opaque {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
        }
    }

    /// The size that costs are counted by.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(c) => {
                if c.address.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Self::Url(u) => u.text.len() as u64,
            Self::Semver(v) => v.to_string().len() as u64,
            Self::Quantity(_) | Self::Format(_) => 1,
        }
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(u) => f.write_str(&u.text),
            Self::Ip(ip) => ip.fmt(f),
            Self::Cidr(c) => c.fmt(f),
            Self::Quantity(q) => q.fmt(f),
            Self::Semver(v) => v.fmt(f),
            Self::Format(n) => f.write_str(n.name()),
        }
    }
}

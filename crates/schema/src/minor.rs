//! The Kubernetes minors that can be served.

use std::{fmt, str::FromStr};

/// A served Kubernetes minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Minor(u32);

impl Minor {
    /// The newest.
    pub const LATEST: Minor = Minor(37);
    /// All of them, oldest first.
    pub const ALL: [Minor; 4] = [Minor(34), Minor(35), Minor(36), Minor(37)];

    /// The number after `1.`.
    pub fn number(self) -> u32 {
        self.0
    }

    /// `v1.37.0`, as `/version` reports.
    pub fn git_version(self) -> String {
        format!("v1.{}.0", self.0)
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

impl FromStr for Minor {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wanted = s.strip_prefix('v').unwrap_or(s);
        Self::ALL.into_iter().find(|m| m.to_string() == wanted).ok_or_else(|| {
            let all: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("unknown Kubernetes version {s:?}: this build serves {}", all.join(", "))
        })
    }
}

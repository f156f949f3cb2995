//! The flags of the binaries that this program stands for: those that do something here, and those of
//! upstream's that are accepted because test suites pass them.

use anyhow::{Result, bail};
use std::io::Write;

/// A flag: its name, what it takes (empty for yes or no), and what it does here.
pub(super) type Flag = (&'static str, &'static str, &'static str);

const IGNORED: &str = "Accepted; has no effect here.";

pub(super) const ETCD: &[Flag] = &[
    ("advertise-client-urls", "string", IGNORED),
    ("data-dir", "string", "Accepted; nothing is stored."),
    ("listen-client-urls", "string", "Where /health is answered."),
    ("listen-peer-urls", "string", IGNORED),
    ("log-level", "string", IGNORED),
    ("name", "string", IGNORED),
    ("quota-backend-bytes", "int", IGNORED),
    ("unsafe-no-fsync", "", "Accepted; nothing is stored."),
];

pub(super) const KUBE_APISERVER: &[Flag] = &[
    ("admission-control-config-file", "string", IGNORED),
    ("advertise-address", "ip", IGNORED),
    ("allow-privileged", "", "Accepted; privileged containers are allowed."),
    ("anonymous-auth", "", IGNORED),
    ("api-audiences", "strings", IGNORED),
    ("audit-log-format", "string", IGNORED),
    ("audit-log-maxage", "int", IGNORED),
    ("audit-log-maxbackup", "int", IGNORED),
    ("audit-log-maxsize", "int", IGNORED),
    ("audit-log-mode", "string", IGNORED),
    ("audit-log-path", "string", IGNORED),
    ("audit-policy-file", "string", IGNORED),
    ("audit-webhook-config-file", "string", IGNORED),
    ("authentication-config", "string", IGNORED),
    ("authentication-token-webhook-config-file", "string", IGNORED),
    ("authorization-config", "string", IGNORED),
    ("authorization-mode", "strings", "Accepted; RBAC is always on."),
    ("bind-address", "ip", "The address to listen at."),
    ("cert-dir", "string", "Where apiserver.crt and apiserver.key are, or are put."),
    ("client-ca-file", "string", "Whose client certificates are known."),
    ("default-watch-cache-size", "int", IGNORED),
    ("disable-admission-plugins", "strings", "Admission plugins to leave out."),
    ("emulated-version", "string", "The minor whose API is served, such as 1.36."),
    ("enable-admission-plugins", "strings", IGNORED),
    ("enable-aggregator-routing", "", IGNORED),
    ("enable-bootstrap-token-auth", "", IGNORED),
    ("enable-priority-and-fairness", "", IGNORED),
    ("encryption-provider-config", "string", IGNORED),
    ("etcd-cafile", "string", IGNORED),
    ("etcd-certfile", "string", IGNORED),
    ("etcd-compaction-interval", "duration", IGNORED),
    ("etcd-keyfile", "string", IGNORED),
    ("etcd-prefix", "string", IGNORED),
    ("etcd-servers", "strings", "Accepted; objects live in this process."),
    ("event-ttl", "duration", IGNORED),
    ("external-hostname", "string", IGNORED),
    ("feature-gates", "strings", IGNORED),
    ("insecure-bind-address", "ip", IGNORED),
    ("kubelet-client-certificate", "string", IGNORED),
    ("kubelet-client-key", "string", IGNORED),
    ("kubelet-preferred-address-types", "strings", IGNORED),
    ("log-flush-frequency", "duration", IGNORED),
    ("logging-format", "string", IGNORED),
    ("max-mutating-requests-inflight", "int", IGNORED),
    ("max-requests-inflight", "int", IGNORED),
    ("min-request-timeout", "int", IGNORED),
    ("oidc-ca-file", "string", IGNORED),
    ("oidc-client-id", "string", IGNORED),
    ("oidc-groups-claim", "string", IGNORED),
    ("oidc-groups-prefix", "string", IGNORED),
    ("oidc-issuer-url", "string", IGNORED),
    ("oidc-username-claim", "string", IGNORED),
    ("oidc-username-prefix", "string", IGNORED),
    ("profiling", "", IGNORED),
    ("proxy-client-cert-file", "string", IGNORED),
    ("proxy-client-key-file", "string", IGNORED),
    ("request-timeout", "duration", IGNORED),
    ("requestheader-allowed-names", "strings", IGNORED),
    ("requestheader-client-ca-file", "string", IGNORED),
    ("requestheader-extra-headers-prefix", "strings", IGNORED),
    ("requestheader-group-headers", "strings", IGNORED),
    ("requestheader-username-headers", "strings", IGNORED),
    ("runtime-config", "strings", IGNORED),
    ("secure-port", "int", "The port to listen at."),
    ("service-account-extend-token-expiration", "", IGNORED),
    ("service-account-issuer", "string", "Who issues service account tokens."),
    ("service-account-key-file", "string", "Accepted; tokens are verified with the signing key."),
    ("service-account-lookup", "", IGNORED),
    ("service-account-signing-key-file", "string", "The key that signs service account tokens."),
    ("service-cluster-ip-range", "string", "The network of cluster IPs."),
    ("service-node-port-range", "string", IGNORED),
    ("shutdown-delay-duration", "duration", IGNORED),
    ("storage-backend", "string", IGNORED),
    ("storage-media-type", "string", IGNORED),
    ("tls-cert-file", "string", "The certificate to serve with."),
    ("tls-cipher-suites", "strings", IGNORED),
    ("tls-min-version", "string", IGNORED),
    ("tls-private-key-file", "string", "Its key."),
    ("token-auth-file", "string", IGNORED),
    ("v", "int", "4 and more logs in detail."),
    ("vmodule", "string", IGNORED),
    ("watch-cache", "", IGNORED),
    ("watch-cache-sizes", "strings", IGNORED),
];

/// What was given, in order.
#[derive(Debug, Default)]
pub(super) struct Flags(Vec<(String, String)>);

impl Flags {
    /// Reads `--flag=value`, `--flag value`, and `--flag` for yes or no.
    pub(super) fn parse(program: &str, table: &[Flag], args: &[String]) -> Result<Self> {
        let mut given = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
                // A line of an old template that came out empty.
                if arg.is_empty() {
                    continue;
                }
                bail!("{program:?} does not take any arguments, got [{arg:?}]");
            };
            let (name, value) = match flag.split_once('=') {
                Some((n, v)) => (n, Some(v.to_owned())),
                None => (flag, None),
            };
            let Some((_, takes, _)) = table.iter().find(|(n, ..)| *n == name) else {
                bail!("unknown flag: --{name}; {program} --help lists those that there are");
            };
            let value = match value {
                Some(v) => v,
                None if takes.is_empty() => "true".into(),
                None => match args.next() {
                    Some(v) => v.clone(),
                    None => bail!("flag needs an argument: --{name}"),
                },
            };
            given.push((name.to_owned(), value));
        }
        Ok(Self(given))
    }

    /// The value that counts: the last one.
    pub(super) fn last(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of a flag that may come again, and hold several with commas between.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let all = self.0.iter().filter(|(n, _)| n == name).flat_map(|(_, v)| v.split(','));
        all.filter(|v| !v.is_empty()).map(Into::into).collect()
    }
}

/// Writes to standard output; a reader that has gone is no fault.
pub(super) fn print(text: &str) -> Result<()> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

pub(super) fn print_help(program: &str, table: &[Flag]) -> Result<()> {
    let mut text = format!(
        "{program}, as far as test suites need it. This is Coracle: one program that serves from memory.\n\nUsage:\n  {program} [flags]\n\nFlags:\n\n"
    );
    for (name, takes, what) in table {
        let left = format!("      --{name} {takes}");
        text += &format!("{left:<52} {what}\n");
    }
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        Flags::parse("kube-apiserver", KUBE_APISERVER, &args)
    }

    #[test]
    fn flags_are_read_as_upstream_reads_them() {
        let f =
            parse(&["--secure-port=1", "--secure-port", "2", "", "--allow-privileged"]).unwrap();
        assert_eq!((f.last("secure-port"), f.last("allow-privileged")), (Some("2"), Some("true")));
        let f =
            parse(&["--disable-admission-plugins=A,B", "--disable-admission-plugins=C"]).unwrap();
        assert_eq!(f.list("disable-admission-plugins"), ["A", "B", "C"]);
        for (args, why) in [
            (&["--nope=1"][..], "unknown flag: --nope"),
            (&["x"], "does not take any arguments"),
            (&["--secure-port"], "flag needs an argument"),
        ] {
            let e = parse(args).unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
    }
}

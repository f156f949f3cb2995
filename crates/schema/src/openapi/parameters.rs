//! Parameters of operations: name, type, and what it is for.

use serde_json::{Value, json};

/// Parameters of queries. The words are ours.
const QUERY: &[(&str, &str, &str)] = &[
    (
        "allowWatchBookmarks",
        "boolean",
        "Ask for events of type BOOKMARK, which tell how far a watch has come.",
    ),
    ("command", "string", "The command to run: its program and arguments, not read by a shell."),
    (
        "container",
        "string",
        "The container that is meant. May be left out where there is only one.",
    ),
    (
        "continue",
        "string",
        "Where to go on with a list that was limited: the token of the page before. A token that is too old is answered with 410 and one that goes on inconsistently.",
    ),
    ("dryRun", "string", "Do everything but store the result. The only value is All."),
    (
        "fieldManager",
        "string",
        "Who writes: the owner of the fields that this request sets. At most 128 characters; required for apply.",
    ),
    ("fieldSelector", "string", "Only objects whose fields have these values."),
    (
        "fieldValidation",
        "string",
        "What to do about unknown and duplicate fields: Ignore them, Warn of them (what is done if nothing is said), or be Strict and refuse the request.",
    ),
    ("follow", "boolean", "Go on with the log as it grows."),
    ("force", "boolean", "Take over fields that conflict. Only for apply."),
    (
        "gracePeriodSeconds",
        "integer",
        "Seconds until the object is removed; 0 at once. Without it the kind's or object's own is used.",
    ),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Delete an object that the storage can no longer read, without its finalizers.",
    ),
    (
        "insecureSkipTLSVerifyBackend",
        "boolean",
        "Do not check the certificate of the node that has the log.",
    ),
    ("labelSelector", "string", "Only objects with these labels."),
    (
        "limit",
        "integer",
        "Most items of the answer; the rest is asked for with the continue token that comes with it.",
    ),
    ("limitBytes", "integer", "Bytes after which the log ends."),
    (
        "orphanDependents",
        "boolean",
        "Deprecated, use propagationPolicy: whether dependents are left alone.",
    ),
    ("path", "string", "The part of the URL that goes on to the other side."),
    ("ports", "integer", "Ports to forward."),
    (
        "pretty",
        "string",
        "If 'true', the answer is printed for people. Browsers, curl and wget get that without asking.",
    ),
    ("previous", "boolean", "The log of the container that ran before this one."),
    (
        "propagationPolicy",
        "string",
        "What becomes of dependents: Background deletes them afterwards, Foreground before, Orphan leaves them.",
    ),
    (
        "resourceVersion",
        "string",
        "The revision that the answer is about; see resourceVersionMatch.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "How resourceVersion is meant by a list: Exact or NotOlderThan.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "Begin the watch with an event for each object there is, and a bookmark where they end. Needs resourceVersionMatch=NotOlderThan.",
    ),
    ("sinceSeconds", "integer", "Only what was logged in the last so many seconds."),
    ("stderr", "boolean", "Connect the error output."),
    ("stdin", "boolean", "Connect the input."),
    ("stdout", "boolean", "Connect the output."),
    ("stream", "string", "Which output of the container: All, Stdout or Stderr."),
    ("tailLines", "integer", "Only so many lines from the end."),
    (
        "timeoutSeconds",
        "integer",
        "Seconds after which the list or watch ends, whatever it has told.",
    ),
    ("timestamps", "boolean", "Begin each line with the time at which it was written."),
    ("tty", "boolean", "Give the command a terminal."),
    ("watch", "boolean", "Instead of a list, a stream of the changes after resourceVersion."),
];

/// Names that operations share.
pub(super) const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
pub(super) const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
pub(super) const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
pub(super) const DELETE: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
pub(super) const DELETE_COLLECTION: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];

/// What a connection to a subresource takes.
pub(super) fn of_connection(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "attach" => &["container", "stderr", "stdin", "stdout", "tty"],
        "exec" => &["command", "container", "stderr", "stdin", "stdout", "tty"],
        "portforward" => &["ports"],
        "proxy" => &["path"],
        "log" => &[
            "container",
            "follow",
            "insecureSkipTLSVerifyBackend",
            "limitBytes",
            "previous",
            "sinceSeconds",
            "stream",
            "tailLines",
            "timestamps",
        ],
        _ => &[],
    }
}

/// A parameter of the query.
pub(super) fn query(name: &str) -> Value {
    let (ty, text) =
        QUERY.iter().find(|(n, ..)| *n == name).map_or(("string", ""), |(_, ty, text)| (ty, text));
    json!({"name": name, "in": "query", "description": text, "schema": {"type": ty, "uniqueItems": true}})
}

/// A parameter of the path.
pub(super) fn path(name: &str, text: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": text, "schema": {"type": "string", "uniqueItems": true}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_described() {
        let connections = ["attach", "exec", "portforward", "proxy", "log"].map(of_connection);
        let lists = [LIST, WRITE, PATCH, DELETE, DELETE_COLLECTION, &["pretty"]];
        for name in lists.into_iter().chain(connections).flatten() {
            assert!(QUERY.iter().any(|(n, ..)| n == name), "{name}");
        }
        assert!(QUERY.is_sorted_by(|a, b| a.0 < b.0));
    }
}

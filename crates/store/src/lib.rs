//! Revisions, transactions and watches over an embedded durable engine

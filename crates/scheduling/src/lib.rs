//! The one scheduling model: requirements, predicates, topology, scores, what-if

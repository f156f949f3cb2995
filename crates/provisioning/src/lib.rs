//! Packing and consolidation: from pending pods and offerings to a plan

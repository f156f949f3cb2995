//! Clouds: the simulated cloud, its catalogue and its nodes

//! Counters and histograms that a core owns and others read by asking it.

//! NRI

//! Frameloom
fn main() {}

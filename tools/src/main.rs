//! `cnic`: what people type.
fn main() {}

//! The adapter against a card that does as told. Names in brackets are defects of BNX2I-CNIC 13.

mod fake;
mod rig;

mod bring_up;
mod data;
mod helper;
mod kwq;
mod reset;

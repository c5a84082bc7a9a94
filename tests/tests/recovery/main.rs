//! Reset and recovery, in virtual time: the rules of ARCHITECTURE 7, the invariants of ARCHITECTURE 8 and the
//! scenarios of BNX2I-CNIC 13, each under its id. docs/invariants.md is the list of ids. `CNIC_FULL=1` runs
//! the whole matrices.

mod daemons;
mod determinism;
mod documented;
mod every_event;
mod helper;
mod ladder;
mod logins;
mod oracles;
mod promises;
mod reset_matrix;
mod scenarios;
mod units;

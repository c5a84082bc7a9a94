//! The laboratory: assembles worlds from the production actors, runs them in virtual or real time, loads
//! them with verified I/O, and judges what came out.

pub mod ages;
pub mod carrier;
pub mod chip_host;
pub mod demo;
pub mod execution;
pub mod far_card;
pub mod host;
pub mod load;
pub mod oracle;
pub mod outside;
pub mod perfetto;
pub mod runner;
pub mod stamp;
pub mod station;
pub mod storage;
pub mod streams;
pub mod target;
pub mod target_host;
pub mod uio_export;
pub mod world;

//! Tests of the front end, from the seat of a driver: config space, registers, mailboxes and rings of a
//! strict bus.

mod bring_up;
mod control;
mod host;
mod hostile;
mod interrupts;
mod netdev;
mod nic;
mod probe;
mod queues;
mod reset;

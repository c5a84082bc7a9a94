//! What a card's port is plugged into when the network behind it is a real one.
//!
//! A network is a pair: a transport for offloaded connections, and a wire for the frames of the Ethernet
//! rings. `nat` is host sockets with the responder, which stands for everybody else; `tap` is the card's own
//! TCP in frames on a TAP device, which it shares with the rings. Either can be recorded.

use std::io;

use hw_model::config::ChipConfig;
use hw_model::tcp::TcpEngine;
use hw_model::tcp::captured::Captured;
use hw_model::tcp::frame::{Checksums, FrameNet};
use hw_model::tcp::host::HostTcp;
use hw_model::tcp::nat::Nat;
use hw_model::wire::tap::TapWire;
use hw_model::wire::{Recording, Responder, Tee, Wire};
use os::reactor::Owner;
use os::tap::{Tap, TapError};
use thiserror::Error;

/// The network behind the port.
#[derive(Clone, Debug)]
pub enum Outside {
    /// Sockets of this machine; destinations are found where the rules say. Needs no privileges.
    Nat(Nat),
    /// The TAP device of this name.
    Tap(String),
}

/// The two halves of a network: what carries offloaded connections, and what the Ethernet rings are plugged
/// into.
pub type Network = (Box<dyn TcpEngine>, Box<dyn Wire>);

/// Why a port could not be plugged in.
#[derive(Debug, Error)]
pub enum PlugError {
    /// The TAP device.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The reactor refuses the device.
    #[error("the operating system refused: {0}")]
    Os(#[from] io::Error),
}

impl Default for Outside {
    fn default() -> Self {
        Self::Nat(Nat::default())
    }
}

impl Outside {
    /// Makes both halves. The runner wakes the card for `owner`; `recording` takes what passes.
    ///
    /// # Errors
    /// There is no such TAP device, or no right to it.
    pub fn plug(
        self,
        chip: &ChipConfig,
        owner: Owner,
        recording: Option<&Recording>,
    ) -> Result<Network, PlugError> {
        Ok(match self {
            Self::Nat(nat) => {
                let tcp = HostTcp::new(owner).with_nat(nat);
                // Who records nothing has nothing in the way.
                match recording.cloned() {
                    Some(r) => {
                        (Box::new(Captured::new(tcp, r.clone())), Box::new(Tee::new(Responder::default(), r)))
                    }
                    None => (Box::new(tcp), Box::new(Responder::default())),
                }
            }
            Self::Tap(name) => {
                let wire = TapWire::new(Tap::open(&name)?, owner)?;
                let wire: Box<dyn Wire> = match recording.cloned() {
                    Some(r) => Box::new(Tee::new(wire, r)),
                    None => Box::new(wire),
                };
                let net = FrameNet::new(wire, chip.iscsi_mac, Checksums::Real);
                (Box::new(net.tcp()), Box::new(net.port()))
            }
        })
    }
}

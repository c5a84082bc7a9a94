//! Stands in for the path helper: answers each path request at once, as if every next hop were known.
//!
//! For worlds without frames, where a connection is carried by a stream or a host socket: there is nobody to
//! send ARP to. What it cannot show: slow or failing resolution, neighbours that move, a helper that dies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bus::port::{PortRx, PortTx};
use bus::uio::{FromHelper, PathReq, PathUpdate, ToHelper};
use bus::{Actor, ActorId, Budget, Cx, Progress};

/// The address of the offload interface, for IPv4 (RFC 5737's documentation range) and IPv6 (RFC 3849's).
pub const SOURCE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

/// The next hop of every path: a locally administered unicast address.
const NEXT_HOP: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// How soon a full port is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// The stand-in. See the module.
pub struct PathAnswerer {
    requests: PortRx<ToHelper>,
    answers: PortTx<FromHelper>,
    pending: Option<FromHelper>,
}

impl PathAnswerer {
    /// Answers what comes in at `requests`.
    #[must_use]
    pub fn new(requests: PortRx<ToHelper>, answers: PortTx<FromHelper>) -> Self {
        Self { requests, answers, pending: None }
    }

    fn answer(message: ToHelper) -> Option<FromHelper> {
        let ToHelper::PathReq(r) = message else { return None };
        let src = match r.dst {
            IpAddr::V4(_) => IpAddr::V4(SOURCE.0),
            IpAddr::V6(_) => IpAddr::V6(SOURCE.1),
        };
        let PathReq { handle, vlan, pmtu, .. } = r;
        Some(FromHelper::PathUpdate(PathUpdate { handle, mac: NEXT_HOP, src, vlan, pmtu }))
    }
}

impl Actor for PathAnswerer {
    fn name(&self) -> ActorId {
        ActorId::new("path-answerer", 0)
    }

    fn step(&mut self, cx: &mut Cx<'_>, budget: Budget) -> Progress {
        let mut done = 0;
        while done < budget.0 {
            let answer = match self.pending.take() {
                Some(answer) => answer,
                None => {
                    let Some(message) = self.requests.recv() else { break };
                    done += 1;
                    let Some(answer) = Self::answer(message) else { continue };
                    answer
                }
            };
            if let Err(full) = self.answers.send(answer) {
                // The adapter is behind: it gets the answer when it has caught up.
                self.pending = Some(full.message);
                return Progress { done, next: Some(cx.now + RETRY) };
            }
        }
        Progress { done, next: None }
    }
}

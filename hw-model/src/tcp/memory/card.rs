//! The card's end: a [`TcpEngine`] on the network.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use bus::Instant;
use bus::pci::DevCx;

use super::net::Net;
use crate::tcp::{CONNECT_TIMEOUT, ConnectError, ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId};

/// A card's transport on a [`super::MemoryNet`].
pub struct MemoryTcp {
    pub(super) net: Rc<RefCell<Net>>,
    pub(super) card: usize,
}

impl Drop for MemoryTcp {
    /// The card is gone. Whoever has its address next answers what its peers send with RST.
    fn drop(&mut self) {
        self.net.borrow_mut().card_gone(self.card);
    }
}

impl TcpEngine for MemoryTcp {
    fn connect(&mut self, cx: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest) {
        let deadline = cx.now + CONNECT_TIMEOUT;
        self.net.borrow_mut().connect(deadline, self.card, id, request.local, request.remote);
    }

    fn close(&mut self, _cx: &mut DevCx<'_>, id: TcpId) {
        let mut net = self.net.borrow_mut();
        let Some(index) = net.of_card(self.card, id) else { return };
        if let Some(s) = net.stream(index) {
            s.up.fin = true;
        }
        net.tell_ends(index);
    }

    fn abort(&mut self, _cx: &mut DevCx<'_>, id: TcpId) {
        self.net.borrow_mut().card_abort(self.card, id);
    }

    fn send(&mut self, _cx: &mut DevCx<'_>, id: TcpId, bytes: &[u8]) -> usize {
        let mut net = self.net.borrow_mut();
        let window = net.window;
        let Some(index) = net.of_card(self.card, id) else { return 0 };
        let Some(s) = net.stream(index) else { return 0 };
        let n = s.up.push(bytes, window);
        net.tell_ends(index);
        n
    }

    fn recv(
        &mut self,
        cx: &mut DevCx<'_>,
        id: TcpId,
        sink: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize {
        let mut net = self.net.borrow_mut();
        let Some(index) = net.of_card(self.card, id) else { return 0 };
        let Some(peer) = net.stream(index).map(|s| s.peer) else { return 0 };
        if !net.passes(peer) {
            // What is held back is told of when it passes.
            if let Some(s) = net.stream(index) {
                s.down.told = false;
            }
            return 0;
        }
        let Some(s) = net.stream(index) else { return 0 };
        let (front, back) = s.down.bytes.as_slices();
        let mut taken = if front.is_empty() { 0 } else { sink(cx, front).min(front.len()) };
        if taken == front.len() && !back.is_empty() {
            taken += sink(cx, back).min(back.len());
        }
        s.down.bytes.drain(..taken);
        // Whoever stopped early comes back by itself; new bytes are told of only after everything was taken.
        s.down.told = !s.down.bytes.is_empty();
        net.tell_ends(index);
        taken
    }

    fn set_link(&mut self, _id: TcpId, _link: LinkHeader) {}

    fn poll(&mut self, cx: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
        let card = &mut self.net.borrow_mut().cards[self.card];
        while let Some(&(deadline, id, ..)) = card.connecting.front() {
            if deadline > cx.now {
                break;
            }
            card.connecting.pop_front();
            card.events.push_back((id, TcpEvent::ConnectFailed(ConnectError::TimedOut)));
        }
        out.extend(card.events.drain(..));
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.net.borrow().cards[self.card].connecting.front().map(|&(at, ..)| at)
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.net.borrow_mut().card_gone(self.card);
    }

    fn supports(&self, _remote: IpAddr) -> bool {
        true
    }
}

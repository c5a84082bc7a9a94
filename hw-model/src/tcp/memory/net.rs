//! The network's state: streams, who is told what, and who still knows them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bus::Instant;
use bus::wake::Wake;

use super::{BACKLOG, PeerEvent, Reach, StreamId};
use crate::tcp::{ConnectError, TcpEvent, TcpId};

/// One direction of a stream.
#[derive(Default)]
pub(super) struct Direction {
    pub(super) bytes: VecDeque<u8>,
    /// FIN follows the bytes.
    pub(super) fin: bool,
    /// The sender waits for room.
    starved: bool,
    /// The receiver was told that there is something, and has not looked since.
    pub(super) told: bool,
}

/// What RST did to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Broken {
    #[default]
    No,
    ByCard,
    ByPeer,
}

pub(super) struct Stream {
    pub(super) serial: u32,
    pub(super) card: usize,
    pub(super) id: TcpId,
    pub(super) peer: usize,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) up: Direction,
    pub(super) down: Direction,
    pub(super) broken: Broken,
    /// The card has been told of FIN.
    fin_told: bool,
    /// The peer has closed it: nobody will receive there any more.
    pub(super) peer_gone: bool,
}

pub(super) struct Card {
    wake: Wake,
    /// Streams by [`TcpId`].
    pub(super) streams: Vec<Option<u32>>,
    /// Handshakes that got no answer, in order of their deadlines.
    pub(super) connecting: VecDeque<(Instant, TcpId, SocketAddr, SocketAddr)>,
    pub(super) events: VecDeque<(TcpId, TcpEvent)>,
}

pub(super) struct Peer {
    wake: Wake,
    pub(super) silent: bool,
    pub(super) backlog: VecDeque<StreamId>,
    pub(super) events: VecDeque<PeerEvent>,
}

pub(super) struct Net {
    pub(super) window: usize,
    reach: Reach,
    pub(super) cards: Vec<Card>,
    pub(super) peers: Vec<Peer>,
    pub(super) listeners: BTreeMap<SocketAddr, usize>,
    pub(super) streams: Vec<Option<Stream>>,
    free: Vec<u32>,
    pub(super) serial: u32,
}

/// The handle on a network. Clones are the same network.
impl Net {
    pub(super) fn new(window: usize) -> Self {
        Self {
            window,
            reach: Reach::Normal,
            cards: Vec::new(),
            peers: Vec::new(),
            listeners: BTreeMap::new(),
            streams: Vec::new(),
            free: Vec::new(),
            serial: 0,
        }
    }

    /// Adds a card; its number.
    pub(super) fn add_card(&mut self, wake: Wake) -> usize {
        let (streams, connecting, events) = (Vec::new(), VecDeque::new(), VecDeque::new());
        self.cards.push(Card { wake, streams, connecting, events });
        self.cards.len() - 1
    }

    /// Adds a far machine; its number.
    pub(super) fn add_peer(&mut self, wake: Wake) -> usize {
        self.peers.push(Peer { wake, silent: false, backlog: VecDeque::new(), events: VecDeque::new() });
        self.peers.len() - 1
    }

    pub(super) fn set_reach(&mut self, reach: Reach) {
        self.reach = reach;
        self.release();
    }

    /// Streams that either end still knows.
    pub(super) fn known(&self) -> usize {
        self.streams.iter().flatten().count()
    }

    pub(super) fn passes(&self, peer: usize) -> bool {
        self.reach == Reach::Normal && !self.peers[peer].silent
    }

    pub(super) fn stream(&mut self, index: u32) -> Option<&mut Stream> {
        self.streams.get_mut(index as usize)?.as_mut()
    }

    pub(super) fn of_card(&self, card: usize, id: TcpId) -> Option<u32> {
        *self.cards[card].streams.get(usize::from(id.0))?
    }

    fn tell_card(&mut self, card: usize, id: TcpId, event: TcpEvent) {
        let card = &mut self.cards[card];
        card.events.push_back((id, event));
        card.wake.wake();
    }

    fn tell_peer(&mut self, peer: usize, event: PeerEvent) {
        let peer = &mut self.peers[peer];
        peer.events.push_back(event);
        peer.wake.wake();
    }

    /// SYN: opens a stream, fails, or gets no answer.
    pub(super) fn connect(
        &mut self,
        deadline: Instant,
        card: usize,
        id: TcpId,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        let refused = TcpEvent::ConnectFailed(ConnectError::Refused);
        let listener = self.listeners.get(&remote).copied();
        let silent = self.reach == Reach::Silent || listener.is_some_and(|h| self.peers[h].silent);
        if silent {
            self.cards[card].connecting.push_back((deadline, id, local, remote));
            return;
        }
        let Some(peer) = listener.filter(|_| self.reach == Reach::Normal) else {
            return self.tell_card(card, id, refused);
        };
        if self.peers[peer].backlog.len() >= BACKLOG {
            return self.tell_card(card, id, refused);
        }
        self.serial = self.serial.wrapping_add(1);
        let stream = Stream {
            serial: self.serial,
            card,
            id,
            peer,
            local,
            remote,
            up: Direction::default(),
            down: Direction::default(),
            broken: Broken::No,
            fin_told: false,
            peer_gone: false,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() as u32 - 1
        });
        self.streams[index as usize] = Some(stream);
        let known = &mut self.cards[card].streams;
        if known.len() <= usize::from(id.0) {
            known.resize(usize::from(id.0) + 1, None);
        }
        known[usize::from(id.0)] = Some(index);
        self.peers[peer].backlog.push_back(StreamId { index, serial: self.serial });
        self.tell_card(card, id, TcpEvent::Connected);
        self.tell_peer(peer, PeerEvent::Incoming);
    }

    /// Both ends look at everything again: what was held back passes now.
    pub(super) fn release(&mut self) {
        for card in 0..self.cards.len() {
            for (deadline, id, local, remote) in std::mem::take(&mut self.cards[card].connecting) {
                self.connect(deadline, card, id, local, remote);
            }
        }
        for index in 0..self.streams.len() as u32 {
            self.tell_ends(index);
        }
    }

    /// Tells each end of a stream what it can do, if it was not told.
    pub(super) fn tell_ends(&mut self, index: u32) {
        let window = self.window;
        let Some(peer) = self.stream(index).map(|s| s.peer) else { return };
        if !self.passes(peer) {
            return;
        }
        let Some(s) = self.stream(index) else { return };
        let (card, id, stream) = (s.card, s.id, StreamId { index, serial: s.serial });
        if s.peer_gone && !s.up.bytes.is_empty() {
            s.broken = Broken::ByPeer;
        }
        match s.broken {
            Broken::No => {}
            Broken::ByCard => {
                if s.peer_gone {
                    self.forget(index);
                } else if !std::mem::replace(&mut s.up.told, true) {
                    self.tell_peer(peer, PeerEvent::Readable(stream));
                }
                return;
            }
            Broken::ByPeer => {
                let known = self.of_card(card, id) == Some(index);
                self.forget(index);
                if known {
                    self.tell_card(card, id, TcpEvent::Rst);
                }
                return;
            }
        }
        let to_peer = (!s.up.bytes.is_empty() || s.up.fin) && !std::mem::replace(&mut s.up.told, true);
        let to_card = !s.down.bytes.is_empty() && !std::mem::replace(&mut s.down.told, true);
        let fin = s.down.fin && s.down.bytes.is_empty() && !std::mem::replace(&mut s.fin_told, true);
        let (closed, peer_gone) = (s.fin_told && s.up.fin, s.peer_gone);
        let card_room = s.up.starved && s.up.bytes.len() < window;
        let peer_room = s.down.starved && s.down.bytes.len() < window;
        s.up.starved &= !card_room;
        s.down.starved &= !peer_room;
        if to_peer && !peer_gone {
            self.tell_peer(peer, PeerEvent::Readable(stream));
        }
        if peer_room {
            self.tell_peer(peer, PeerEvent::Writable(stream));
        }
        if to_card {
            self.tell_card(card, id, TcpEvent::Readable);
        }
        if card_room {
            self.tell_card(card, id, TcpEvent::Writable);
        }
        if fin {
            self.tell_card(card, id, TcpEvent::Fin);
        }
        if closed && self.of_card(card, id) == Some(index) {
            self.cards[card].streams[usize::from(id.0)] = None;
            self.tell_card(card, id, TcpEvent::Closed);
            if peer_gone {
                self.forget(index);
            }
        }
    }

    /// Frees a stream that no end needs any more.
    pub(super) fn forget(&mut self, index: u32) {
        let Some(s) = self.streams.get_mut(index as usize).and_then(Option::take) else { return };
        self.free.push(index);
        if self.of_card(s.card, s.id) == Some(index) {
            self.cards[s.card].streams[usize::from(s.id.0)] = None;
        }
        let id = StreamId { index, serial: s.serial };
        self.peers[s.peer].backlog.retain(|&waiting| waiting != id);
    }

    /// RST from the card. The peer receives it unless it has forgotten the stream.
    pub(super) fn card_abort(&mut self, card: usize, id: TcpId) {
        self.cards[card].connecting.retain(|&(_, i, ..)| i != id);
        self.cards[card].events.retain(|&(i, _)| i != id);
        let Some(index) = self.of_card(card, id) else { return };
        self.cards[card].streams[usize::from(id.0)] = None;
        let Some(s) = self.stream(index) else { return };
        s.broken = Broken::ByCard;
        s.up = Direction::default();
        s.down = Direction::default();
        self.tell_ends(index);
    }

    /// RST for everything that a card has.
    pub(super) fn card_gone(&mut self, card: usize) {
        for id in 0..self.cards[card].streams.len() {
            self.card_abort(card, TcpId(id as u16));
        }
        self.cards[card].connecting.clear();
        self.cards[card].events.clear();
    }
}

impl Direction {
    /// Takes as many bytes as there is room for.
    pub(super) fn push(&mut self, bytes: &[u8], window: usize) -> usize {
        let n = if self.fin { 0 } else { bytes.len().min(window - self.bytes.len()) };
        self.bytes.extend(&bytes[..n]);
        self.starved = n < bytes.len();
        n
    }
}

//! Connections and path groups through KWQEs: the way it should go, limits, and everything malformed.

use std::net::SocketAddr;

use hsi::kernel::kwq::{IscsiKwqeConnDestroy, IscsiKwqeConnUpdate, IscsiKwqeInit1, Kwqe, L2KwqeOpcode};
use hsi::kernel::l4::{
    L4_KWQ_CONNECT_REQ1_IP_V6, L4KcqUploadPg, L4KwqCloseReq, L4KwqConnectReq1, L4KwqConnectReq2,
    L4KwqResetReq, L4KwqUpdatePg, L4KwqUpload,
};
use hsi::{U32, View};

use super::host::{Conn, Host, Peer, connect, connect3, init};
use crate::config::ChipConfig;
use crate::tcp::{TcpEvent, TcpId};

pub(super) fn close(c: Conn) -> Kwqe {
    let mut e = L4KwqCloseReq::blank();
    e.cid = U32::new(c.context);
    e.into_element()
}

pub(super) fn reset(c: Conn) -> Kwqe {
    let mut e = L4KwqResetReq::blank();
    e.cid = U32::new(c.context);
    e.into_element()
}

pub(super) fn destroy(c: Conn) -> Kwqe {
    IscsiKwqeConnDestroy::new(c.id, c.context >> 7).into_element()
}

pub(super) fn upload(pg: u32) -> Kwqe {
    let mut e = L4KwqUpload::blank();
    e.cid = U32::new(pg);
    e.into_element()
}

pub(super) fn update(c: Conn) -> Kwqe {
    let mut e = IscsiKwqeConnUpdate::blank();
    e.context_id = U32::new(c.context >> 7);
    e.max_outstanding_r2ts = 1;
    (e.max_send_pdu_length, e.max_recv_pdu_length) = (U32::new(65_536), U32::new(262_144));
    (e.first_burst_length, e.max_burst_length) = (U32::new(65_536), U32::new(262_144));
    e.into_element()
}

#[test]
fn a_connection_from_offload_to_destroy() {
    let mut h = Host::up(ChipConfig::default());
    let c = h.prepared(5);
    assert_eq!(c.context & 0x7f, 0, "a context address");
    h.submit(&connect(c));
    let done = h.reap_l4();
    assert_eq!((done[0].op_code.0, done[0].status.get(), done[0].conn_id.get()), (56, 0, 5));
    assert_eq!((done[0].cid.get(), done[0].pg_cid.get()), (c.context, c.pg));
    let (id, request) = h.wire.0.borrow().requests[0].clone();
    assert_eq!(id, TcpId(5));
    assert_eq!(request.local, "10.0.0.1:60000".parse::<SocketAddr>().expect("an address"));
    assert_eq!(request.remote, "10.0.0.2:3260".parse::<SocketAddr>().expect("an address"));
    assert_eq!((request.mss, request.rcv_buf, request.link.destination[5]), (1460, 262_144, 1));
    h.submit(&[update(c)]);
    assert_eq!(h.answers(), [(0x612, 0)]);
    h.submit(&[upload(c.pg)]);
    let refused = h.reap();
    assert_eq!(refused[0].view::<L4KcqUploadPg>().pg_status.get(), 0x89, "TCP still uses it");
    h.submit(&[close(c)]);
    assert_eq!(h.answers(), [(0x435, 0)]);
    h.submit(&[upload(c.pg), destroy(c)]);
    assert_eq!(h.answers(), [(0x40e, 0), (0x613, 0)]);
    assert_eq!(h.card.with(|c| c.in_use()), (0, 0), "everything is back");
    assert_eq!(h.card.with(|c| c.engine().connections()), 0);
    h.connected(5);
}

#[test]
fn ipv6_needs_three_parts() {
    let mut h = Host::up(ChipConfig::default());
    let c = h.prepared(1);
    let mut one = L4KwqConnectReq1::blank();
    one.conn_flags = L4_KWQ_CONNECT_REQ1_IP_V6;
    (one.cid, one.pg_cid) = (U32::new(c.context), U32::new(c.pg));
    (one.src_ip, one.dst_ip) = (U32::new(0xfd00_0000), U32::new(0xfd00_0001));
    (one.src_port, one.dst_port) = (hsi::U16::new(60_001), hsi::U16::new(3260));
    let mut two = L4KwqConnectReq2::blank();
    (two.src_ip_v6_4, two.dst_ip_v6_4) = (U32::new(1), U32::new(2));
    let one = one.into_element();
    h.submit(&[one, two.into_element(), connect3().into_element()]);
    assert_eq!(h.answers(), [(0x438, 0)]);
    let remote = h.wire.0.borrow().requests[0].1.remote;
    assert_eq!(remote, "[fd00:1::2]:3260".parse::<SocketAddr>().expect("an address"));
    let d = h.prepared(2);
    let mut again = *one.view::<L4KwqConnectReq1>();
    again.cid = U32::new(d.context);
    h.submit(&[again.into_element(), connect3().into_element()]);
    assert_eq!(h.answers(), [(0x438, 4)], "the second part is missing");
}

#[test]
fn licence_and_contexts_are_limits() {
    let config = ChipConfig { licensed_connections: 2, path_groups: 1, ..ChipConfig::default() };
    let mut h = Host::up(config.clone());
    let a = h.prepared(0);
    assert!(h.offload(1).is_ok());
    assert_eq!(h.offload(2), Err(2), "licence");
    assert_eq!(h.offload_pg(77).status.get(), 0x83, "no path group left");
    assert_eq!(h.offload_pg(0).status.get(), 0x89, "that one exists");
    h.submit(&[destroy(a)]);
    assert_eq!(h.answers(), [(0x613, 0)]);
    assert!(h.offload(2).is_ok(), "a freed one can be used again");

    let mut h = Host::up(ChipConfig { contexts: 2, licensed_connections: 128, ..config });
    assert!(h.offload(200).is_ok() && h.offload(100).is_ok(), "any index");
    assert_eq!(h.offload(3), Err(2), "contexts");
}

#[test]
fn a_full_adapter_comes_and_goes() {
    let mut h = Host::up(ChipConfig::default());
    let all: Vec<Conn> = (0..128).map(|id| h.connected(id)).collect();
    assert_eq!(h.offload(128), Err(2), "the licence is used up");
    let mut contexts: Vec<u32> = all.iter().map(|c| c.context).collect();
    contexts.sort_unstable();
    contexts.dedup();
    assert_eq!((contexts.len(), h.card.with(|c| c.in_use())), (128, (128, 128)));
    all.chunks(32).for_each(|some| h.post(&some.iter().map(|&c| close(c)).collect::<Vec<_>>()));
    h.run();
    assert_eq!(h.answers().len(), 128);
    for some in all.chunks(32) {
        let kwqes: Vec<Kwqe> = some.iter().flat_map(|&c| [upload(c.pg), destroy(c)]).collect();
        h.submit(&kwqes);
        assert!(h.answers().iter().all(|&(_, status)| status == 0));
    }
    assert_eq!(h.card.with(|c| (c.in_use(), c.engine().connections())), ((0, 0), 0));
    assert_eq!(h.slot.borrow().violations(), []);
}

#[test]
fn offload_refuses_what_cannot_be() {
    let mut h = Host::up(ChipConfig::default());
    assert!(h.offload(3).is_ok());
    assert_eq!(h.offload(3), Err(0x80), "in use");
    assert_eq!(h.offload(256), Err(1), "no such index");
    let (mut kwqes, _buffers) = h.offload_kwqes(4);
    kwqes[1].view_mut::<hsi::kernel::kwq::IscsiKwqeConnOffload2>().num_additional_wqes = U32::new(9);
    h.submit(&kwqes);
    let (mut kwqes, _buffers) = h.offload_kwqes(5);
    kwqes[0].view_mut::<hsi::kernel::kwq::IscsiKwqeConnOffload1>().set_cq_page_table_addr(0x66_0000_0000);
    h.submit(&kwqes);
    assert_eq!(h.answers(), [(0x610, 1), (0x610, 4)], "additional KWQEs; a page table outside memory");
    assert_eq!(h.card.with(|c| c.in_use().0), 1, "nothing leaked");
}

#[test]
fn a_connection_that_fails_can_be_tried_again() {
    let mut h = Host::up(ChipConfig::default());
    let c = h.prepared(9);
    h.wire.0.borrow_mut().peer = Peer::Refuses;
    h.submit(&connect(c));
    assert_eq!(h.answers(), [(0x438, 4)]);
    h.submit(&[update(c)]);
    assert_eq!(h.answers(), [(0x612, 4)], "not connected");
    h.wire.0.borrow_mut().peer = Peer::Accepts;
    h.submit(&connect(c));
    assert_eq!(h.answers(), [(0x438, 0)]);
    h.submit(&connect(c));
    assert_eq!(h.answers(), [(0x438, 4)], "connected already");
}

#[test]
fn reset_ends_an_attempt_and_destroy_waits_for_tcp() {
    let mut h = Host::up(ChipConfig::default());
    let c = h.prepared(9);
    h.wire.0.borrow_mut().peer = Peer::Silent;
    h.submit(&connect(c));
    h.submit(&[destroy(c)]);
    assert_eq!(h.answers(), [(0x613, 3)], "TCP is alive");
    assert_eq!(h.card.with(|c| c.counters().host_errors), 1);
    h.submit(&[reset(c)]);
    assert_eq!(h.answers(), [(0x436, 0)]);
    assert_eq!(h.wire.0.borrow().aborts, [TcpId(9)]);
    h.submit(&[upload(c.pg), destroy(c), destroy(c), close(c)]);
    assert_eq!(h.answers(), [(0x40e, 0), (0x613, 3), (0x613, 0)], "the second DESTROY comes too late");
}

#[test]
fn what_the_peer_does_is_reported() {
    let mut h = Host::up(ChipConfig::default());
    let (a, b) = (h.connected(0), h.connected(1));
    h.wire.0.borrow_mut().events.extend([(TcpId(0), TcpEvent::Fin), (TcpId(1), TcpEvent::Rst)]);
    h.run();
    let seen: Vec<_> = h.reap_l4().iter().map(|e| (e.op_code.0, e.conn_id.get())).collect();
    assert_eq!(seen, [(58, 0), (57, 1)]);
    h.submit(&[reset(b), close(a)]);
    let mut seen: Vec<_> = h.reap_l4().iter().map(|e| (e.op_code.0, e.conn_id.get())).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(53, 0), (54, 1)]);
    h.submit(&[destroy(a), destroy(b)]);
    assert_eq!(h.answers(), [(0x613, 0), (0x613, 0)]);
}

#[test]
fn path_groups_follow_their_neighbour() {
    let mut h = Host::up(ChipConfig::default());
    let c = h.prepared(0);
    let mut e = L4KwqUpdatePg::blank();
    (e.pg_cid, e.pg_host_opaque) = (U32::new(c.pg), U32::new(0));
    e.set_da([2, 0, 0, 0, 0, 9]);
    let mut wrong = e;
    wrong.pg_cid = U32::new(0x5_0000);
    h.submit(&[e.into_element(), wrong.into_element(), upload(0x5_0000)]);
    let answers = h.reap();
    assert_eq!(answers[0].view::<hsi::kernel::l4::L4Kcq>().status.get(), 0);
    assert_eq!(answers[1].view::<hsi::kernel::l4::L4Kcq>().status.get(), 4);
    assert_eq!(answers[2].view::<L4KcqUploadPg>().pg_status.get(), 4);
    h.submit(&connect(c));
    h.reap();
    assert_eq!(h.wire.0.borrow().requests[0].1.link.destination[5], 9);
    assert_eq!(h.wire.0.borrow().links, [], "there was no connection to tell of it");
    e.set_da([2, 0, 0, 0, 0, 10]);
    h.submit(&[e.into_element()]);
    h.reap();
    let links: Vec<_> = h.wire.0.borrow().links.iter().map(|(id, l)| (id.0, l.destination[5])).collect();
    assert_eq!(links, [(0, 10)], "a live connection follows");
}

#[test]
fn parts_without_their_other_part_are_answered_or_counted() {
    let mut h = Host::up(ChipConfig::default());
    let c = h.prepared(0);
    let [init1, init2] = init(64, 128);
    let (offload, _buffers) = h.offload_kwqes(7);
    let [connect1, connect3] = connect(c);
    // Each first part is followed by something else; each last part has lost its first.
    h.submit(&[init2, offload[1], connect3, init1, offload[0], connect1, init1, init2]);
    assert_eq!(h.answers(), [(0x614, 1), (0x610, 1), (0x438, 4), (0x614, 0)]);
    assert_eq!(h.card.with(|c| c.counters().orphan_kwqes), 6);
    assert_eq!(h.card.with(|c| c.in_use().0), 1);
}

#[test]
fn a_pair_may_come_in_two_doorbells() {
    let mut h = Host::up(ChipConfig::default());
    let [init1, init2] = init(64, 128);
    h.submit(&[init1]);
    assert!(h.reap().is_empty());
    h.submit(&[init2]);
    assert_eq!(h.answers(), [(0x614, 0)]);
}

#[test]
fn nonsense_is_counted_and_changes_nothing() {
    let mut h = Host::up(ChipConfig::default());
    let raw = |layer: u32, opcode: u32| {
        let mut bytes = [0xff; 32];
        bytes[..4].copy_from_slice(&(layer << 28 | opcode << 16).to_le_bytes());
        Kwqe::from_bytes(bytes)
    };
    let all: Vec<Kwqe> = (0..8).flat_map(|layer| [99, 200].map(|op| raw(layer, op))).collect();
    h.submit(&all);
    assert!(h.reap().is_empty());
    assert_eq!(h.card.with(|c| c.counters().unknown_kwqes), 16);
    h.submit(&[raw(2, u32::from(L2KwqeOpcode::FLUSH.0))]);
    assert!(h.reap().is_empty(), "a flush needs no answer");
    assert_eq!(h.card.with(|c| c.counters().unknown_kwqes), 16, "but is understood");

    let nobody = Conn { id: 3, context: 0x7fff_ff80, pg: 0 };
    h.submit(&[close(nobody), reset(nobody), update(nobody), connect(nobody)[0], connect(nobody)[1]]);
    assert!(h.reap().is_empty());
    h.submit(&[destroy(nobody)]);
    assert_eq!(h.answers(), [(0x613, 3)]);
    assert_eq!(h.card.with(|c| c.counters().unknown_contexts), 5);
    assert_eq!(h.slot.borrow().violations(), []);
}

#[test]
fn connects_that_cannot_work_are_refused() {
    let mut h = Host::up(ChipConfig::default());
    let c = h.prepared(0);
    let bad = |change: &dyn Fn(&mut L4KwqConnectReq1)| {
        let [mut one, three] = connect(c);
        change(one.view_mut());
        [one, three]
    };
    h.submit(&bad(&|e| e.dst_port = hsi::U16::new(0)));
    h.submit(&bad(&|e| e.dst_ip = U32::new(0)));
    h.submit(&bad(&|e| e.pg_cid = U32::new(1)));
    let mut three = connect3();
    three.mss = hsi::U16::new(9000);
    h.submit(&[connect(c)[0], three.into_element()]);
    assert_eq!(h.answers(), [(0x438, 4); 4]);
    assert!(h.wire.0.borrow().requests.is_empty());
    h.submit(&connect(c));
    assert_eq!(h.answers(), [(0x438, 0)], "none of that hurt it");
}

#[test]
fn init1_of_the_specification_decodes() {
    let [one, _] = init(64, 128);
    assert_eq!(one.view::<IscsiKwqeInit1>().page_size(), 4096);
}

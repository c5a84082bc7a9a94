//! Ethernet rings from the seat of a network driver: sending, receiving, offloads, filters, vectors, garbage.

use bus::config::MSIX_ENABLE;
use bus::pci::Vector;
use hsi::U32;
use hsi::bcm5709::l2::{
    L2_FHDR_ERRORS_TCP_XSUM, L2_FHDR_STATUS_IP_DATAGRAM, L2_FHDR_STATUS_L2_VLAN_TAG, L2_FHDR_STATUS_RSS_HASH,
    L2_FHDR_STATUS_TCP_SEGMENT, TX_BD_FLAGS_END, TX_BD_FLAGS_IP_CKSUM, TX_BD_FLAGS_START, TX_BD_FLAGS_SW_LSO,
    TX_BD_FLAGS_TCP_UDP_CKSUM, TX_BD_FLAGS_VLAN_TAG, TxBd,
};
use hsi::bcm5709::statistics::StatisticsBlock;
use hsi::bcm5709::{ctx, regs};
use hsi::kernel::kwq::Kwqe;
use proptest::prelude::*;

use super::host::Host;
use super::nic::{MAC, Orders, Rx, Tx, open_filter};
use crate::config::ChipConfig;
use crate::ether;
use crate::wire::{LARGEST_FRAME, Responder};

const TX0: usize = 10;
const TX2: usize = 14;
const RX0: usize = 18;
const RX2: usize = 22;

/// A started card with the netdev's rings and its filter open.
fn nic() -> (Host, Tx, Rx) {
    let mut h = Host::new(ChipConfig::default());
    h.reset_handshake();
    h.start();
    let tx = Tx::new(&mut h, ctx::TX_CID, TX0);
    let rx = Rx::new(&mut h, ctx::RX_CID, RX0, 1);
    open_filter(&mut h);
    (h, tx, rx)
}

/// A frame to `to` with a payload of `n` bytes that no protocol understands.
fn frame_to(to: [u8; 6], n: usize) -> Vec<u8> {
    let mut f = to.to_vec();
    f.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    f.extend((0..n).map(|i| i as u8));
    f
}

/// A TCP segment to this host, without checksums.
fn tcp(v4: bool, port: u16, payload: usize) -> Vec<u8> {
    let mut f = MAC.to_vec();
    f.extend([2, 0, 10, 0, 0, 2]);
    let n = (20 + payload) as u16;
    if v4 {
        f.extend([8, 0, 0x45, 0]);
        f.extend((20 + n).to_be_bytes());
        f.extend([0, 1, 0x40, 0, 64, ether::TCP, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    } else {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend(n.to_be_bytes());
        f.extend([ether::TCP, 64]);
        f.extend([1; 16]);
        f.extend([2; 16]);
    }
    f.extend(port.to_be_bytes());
    f.extend([0x0c, 0xbc, 0, 0, 1, 0, 0, 0, 2, 0, 0x50, 0x18, 0x20, 0, 0xde, 0xad, 0, 0]);
    f.extend((0..payload).map(|i| i as u8));
    f
}

fn checked(mut f: Vec<u8>) -> Vec<u8> {
    let ip = ether::parse(&f).expect("IP");
    if ip.v4 {
        ether::fill_ipv4_checksum(&mut f, &ip);
    }
    ether::fill_l4_checksum(&mut f, &ip);
    f
}

fn sound(f: &[u8]) -> bool {
    let ip = ether::parse(f).expect("IP");
    (!ip.v4 || ether::fold(ether::sum(&f[ip.l3..ip.l4])) == 0xffff)
        && ether::fold(ip.pseudo(f, ip.end - ip.l4) + ether::sum(&f[ip.l4..ip.end])) == 0xffff
}

#[test]
fn arp_and_ping_through_the_rings_wrap_their_pages_many_times() {
    let (mut h, mut tx, mut rx) = nic();
    h.cable.0.borrow_mut().responder = Some(Responder::default());
    let mut arp = vec![0xff; 6];
    arp.extend(MAC);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(MAC);
    arp.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    tx.send(&mut h, &arp);
    let answers = rx.reap(&mut h);
    let peer = Responder::mac_of([10, 0, 0, 2]);
    assert_eq!((answers.len(), &answers[0].1[22..28]), (1, &peer[..]));
    assert_eq!(answers[0].1.len(), 60, "padded to the shortest frame");
    for sequence in 0..600_u16 {
        let mut echo = peer.to_vec();
        echo.extend(MAC);
        echo.extend([8, 0, 0x45, 0, 0, 84, 0, 1, 0x40, 0, 64, ether::ICMP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        echo.extend([8, 0, 0, 0, 0, 7]);
        echo.extend(sequence.to_be_bytes());
        echo.extend([sequence as u8; 56]);
        let ip = ether::parse(&echo).expect("IP");
        ether::fill_ipv4_checksum(&mut echo, &ip);
        let checksum = !ether::fold(ether::sum(&echo[34..]));
        ether::set_word(&mut echo, 36, checksum);
        // One to three descriptors, so that frames cross the end of the page.
        tx.send_with(&mut h, &echo, [98, 60, 40][usize::from(sequence) % 3], Orders::default());
        let answers = rx.reap(&mut h);
        assert_eq!(answers.len(), 1, "{sequence}");
        assert_eq!(answers[0].1[38..], echo[38..], "{sequence}");
        assert_eq!(answers[0].1[34], 0);
        assert_ne!(answers[0].0.l2_fhdr_status.get() & L2_FHDR_STATUS_IP_DATAGRAM, 0);
    }
    assert_eq!(h.slot.borrow().violations(), []);
    assert_eq!(h.card.with(|c| c.counters().tx_frames), 601);
}

#[test]
fn who_sends_without_end_still_receives() {
    let (mut h, mut tx, mut rx) = nic();
    for _ in 0..20 {
        tx.post(&frame_to([2; 6], 46), 60, Orders::default());
    }
    tx.announce(&mut h);
    h.cable.arrive(&frame_to(MAC, 46));
    h.step(4);
    assert_eq!(h.cable.sent().len(), 4, "there is more to send");
    assert!(h.cable.0.borrow().arriving.is_empty());
    h.run();
    assert!(tx.done(&h) && rx.take(&h).len() == 1);
}

#[test]
fn checksums_are_computed_where_they_are_ordered() {
    for v4 in [true, false] {
        let (mut h, mut tx, _rx) = nic();
        let frame = tcp(v4, 1, 333);
        let flags = TX_BD_FLAGS_TCP_UDP_CKSUM | if v4 { TX_BD_FLAGS_IP_CKSUM } else { 0 };
        tx.send_with(&mut h, &frame, 54, Orders { flags, ..Orders::default() });
        tx.send(&mut h, &frame);
        let sent = h.cable.sent();
        assert!(sound(&sent[0]));
        assert_eq!(sent[1], frame, "not ordered, not touched");
    }
}

#[test]
fn a_large_send_becomes_segments_with_tags() {
    let (mut h, mut tx, _rx) = nic();
    let mut frame = tcp(true, 1, 20_000);
    let flags = TX_BD_FLAGS_SW_LSO | TX_BD_FLAGS_VLAN_TAG;
    // The descriptors of a driver: headers and the first bytes, then pages.
    tx.send_with(&mut h, &frame, 1300, Orders { flags, mss: 1460, vlan: 0x2064 });
    let sent = h.cable.sent();
    assert_eq!(sent.len(), 14);
    assert!(sent.iter().all(|s| sound(s) && ether::vlan(s) == Some(0x2064)));
    let payload: Vec<u8> = sent.iter().flat_map(|s| s[58..].to_vec()).collect();
    assert_eq!(payload, frame.split_off(54));
    assert!(sent.iter().all(|s| s.len() <= 1518));
}

#[test]
fn nothing_goes_out_that_no_wire_carries() {
    let (mut h, mut tx, _rx) = nic();
    // A large send in segments of more than a jumbo frame; of its two, the second is shorter.
    let flags = TX_BD_FLAGS_SW_LSO;
    tx.send_with(&mut h, &tcp(true, 1, 20_000), 1300, Orders { flags, mss: 16_000, vlan: 0 });
    assert_eq!(h.cable.sent().iter().map(Vec::len).collect::<Vec<_>>(), [4054]);
    // A frame that is as long as any, and a tag to be inserted.
    let longest = frame_to([2; 6], LARGEST_FRAME - ether::HEADER);
    tx.send_with(&mut h, &longest, 2000, Orders::default());
    let flags = TX_BD_FLAGS_VLAN_TAG;
    tx.send_with(&mut h, &longest, 2000, Orders { flags, vlan: 5, ..Orders::default() });
    assert_eq!(h.cable.sent(), [longest]);
    let c = h.card.with(|c| c.counters());
    assert_eq!((c.tx_malformed, c.tx_frames), (2, 2));
}

#[test]
fn what_arrives_is_classified() {
    let (mut h, _tx, mut rx) = nic();
    h.cable.arrive(&checked(tcp(true, 7, 100)));
    let mut bad = checked(tcp(false, 7, 100));
    *bad.last_mut().expect("bytes") ^= 1;
    h.cable.arrive(&bad);
    let mut tagged = checked(tcp(true, 7, 10));
    tagged.splice(12..12, [0x81, 0, 0x60, 0x64]);
    h.cable.arrive(&tagged);
    h.run();
    let got = rx.reap(&mut h);
    let status: Vec<u32> = got.iter().map(|g| g.0.l2_fhdr_status.get()).collect();
    let tcp_ip = L2_FHDR_STATUS_IP_DATAGRAM | L2_FHDR_STATUS_TCP_SEGMENT;
    assert_eq!(status, [tcp_ip, tcp_ip | L2_FHDR_ERRORS_TCP_XSUM, tcp_ip | L2_FHDR_STATUS_L2_VLAN_TAG]);
    assert_eq!(got[0].1, checked(tcp(true, 7, 100)));
    assert_eq!(got[2].1[..64], checked(tcp(true, 7, 10))[..64], "the tag is off");
    assert_eq!((got[2].0.l2_fhdr_vlan_tag.get(), got[0].0.l2_fhdr_tcp_udp_xsum.get()), (0x6064, 0xffff));
    h.write(regs::EMAC_RX_MODE, regs::EMAC_RX_MODE_KEEP_VLAN_TAG);
    h.cable.arrive(&tagged);
    h.run();
    assert_eq!(rx.reap(&mut h)[0].1[..tagged.len()], tagged[..], "the tag stays");
}

#[test]
fn filters_and_limits_drop_and_count() {
    let (mut h, _tx, mut rx) = nic();
    let stats = h.lent(4096);
    h.write(regs::HC_STATISTICS_ADDR_L, stats.addr() as u32);
    h.write(regs::HC_STATISTICS_ADDR_H, (stats.addr() >> 32) as u32);
    h.cable.arrive(&frame_to([2, 0, 0, 0, 0, 1], 100));
    h.cable.arrive(&frame_to([1, 0, 0x5e, 0, 0, 1], 100));
    h.cable.arrive(&frame_to(MAC, 1501));
    h.cable.arrive(&frame_to(MAC, 1500));
    h.cable.arrive(&frame_to([0xff; 6], 200));
    h.cable.arrive(&[1, 2, 3]);
    h.run();
    let got = rx.take(&h);
    assert_eq!(got.iter().map(|g| g.1.len()).collect::<Vec<_>>(), [1514, 214]);
    let c = h.card.with(|c| c.counters());
    assert_eq!((c.rx_filtered, c.rx_oversize, c.rx_runts, c.rx_frames), (2, 1, 1, 2));
    // 253 more use up what the driver gave.
    for _ in 0..255 {
        h.cable.arrive(&frame_to(MAC, 50));
    }
    h.run();
    assert_eq!(rx.reap(&mut h).len(), 252);
    assert_eq!(h.card.with(|c| c.counters().rx_no_buffer), 3);
    assert_eq!(h.indirect(regs::FW_RX_DROP_COUNT), 3);
    h.write(regs::HC_COMMAND, regs::HC_COMMAND_STATS_NOW);
    h.run();
    let block = |buf: &bus::mem::DmaBuf| {
        let mut bytes = [0; 324];
        buf.read(0, &mut bytes);
        StatisticsBlock::from_bytes(bytes)
    };
    let b = block(&stats);
    assert_eq!(
        (b.stat_IfInFramesL2FilterDiscards, b.stat_EtherStatsOverrsizePkts),
        (U32::new(2), U32::new(1))
    );
    assert_eq!((b.stat_IfHCInUcastPkts_lo.get(), b.stat_IfHCInBroadcastPkts_lo.get()), (256, 1));
    assert_eq!(b.stat_EtherStatsPktsRx1024Octetsto1522Octets.get(), 2);
    assert_eq!(b.stat_IfHCInOctets_lo.get(), 1518 + 218 + 255 * 68);
    h.write(regs::HC_COMMAND, regs::HC_COMMAND_CLR_STAT_NOW | regs::HC_COMMAND_STATS_NOW);
    h.run();
    assert_eq!(block(&stats).stat_IfHCInOctets_lo.get(), 0);
    // By time, until the chip is reset.
    h.write(regs::HC_CONFIG, regs::HC_CONFIG_COLLECT_STATS);
    h.write(regs::HC_STATS_TICKS, 1_000_000);
    h.cable.arrive(&frame_to([0xff; 6], 200));
    h.run();
    assert_eq!(block(&stats).stat_IfHCInBroadcastPkts_lo.get(), 0);
    h.now += std::time::Duration::from_secs(1);
    h.run();
    assert_eq!(block(&stats).stat_IfHCInBroadcastPkts_lo.get(), 1);
}

#[test]
fn jumbo_frames_fill_a_buffer_and_pages() {
    let mut h = Host::new(ChipConfig::default());
    h.reset_handshake();
    h.start();
    // A driver with MTU 9000: 128 bytes and the header in the buffer, the rest in pages.
    let sizes = (128 + 18) << 16 | 4096;
    let mut rx = Rx::with_sizes(&mut h, ctx::RX_CID, RX0, 1, sizes);
    let mut tx = Tx::new(&mut h, ctx::TX_CID, TX0);
    open_filter(&mut h);
    h.write(regs::EMAC_RX_MTU_SIZE, regs::EMAC_RX_MTU_SIZE_JUMBO_ENA | 9018);
    for n in [46, 110, 111, 114, 115, 4096, 4210, 8191, 9000, 60] {
        h.cable.arrive(&frame_to(MAC, n));
        h.run();
        let got = rx.reap(&mut h);
        assert_eq!(got.len(), 1, "{n}");
        assert_eq!(got[0].1, frame_to(MAC, n));
    }
    h.cable.arrive(&frame_to(MAC, 9001));
    h.run();
    assert_eq!((rx.take(&h).len(), h.card.with(|c| c.counters().rx_oversize)), (0, 1));
    tx.send_with(&mut h, &frame_to([4; 6], 9000), 4096, Orders::default());
    assert_eq!(h.cable.sent(), [frame_to([4; 6], 9000)]);
    // Pages run out before buffers do: 254, of which 11 are used; such a frame takes three.
    for _ in 0..90 {
        h.cable.arrive(&frame_to(MAC, 9000));
    }
    h.run();
    assert_eq!((rx.take(&h).len(), h.card.with(|c| c.counters().rx_no_buffer)), (81, 9));
    assert_eq!(h.slot.borrow().violations(), []);
}

#[test]
fn vectors_have_rings_blocks_and_interrupts_of_their_own() {
    const VECTORS: u32 = 4;
    let mut h = Host::new(ChipConfig::default());
    h.config_write(0xa0, MSIX_ENABLE);
    for n in 0..=VECTORS {
        h.write(regs::PCI_GRC_WINDOW2_BASE + n * 16 + 12, 0);
    }
    h.reset_handshake();
    h.start();
    let block = |n: u32, at: usize| n as usize * 128 + at;
    let mut tx: Vec<Tx> =
        (1..VECTORS).map(|n| Tx::new(&mut h, ctx::TX_TSS_CID + n - 1, block(n, 2))).collect();
    let mut rx: Vec<Rx> =
        (1..VECTORS).map(|n| Rx::new(&mut h, ctx::RX_RSS_CID + n - 1, block(n, 0), 1)).collect();
    let mut rest = Rx::new(&mut h, ctx::RX_CID, RX0, 1);
    h.write(regs::TSCH_TSS_CFG, (VECTORS - 1) << 24 | ctx::TX_TSS_CID << 7);
    for word in 0..16 {
        h.write(regs::RLUP_RSS_DATA, (0..8).map(|i| ((8 * word + i) % 3) << (4 * i)).sum());
        let command = regs::RLUP_RSS_COMMAND_WRITE | regs::RLUP_RSS_COMMAND_RSS_WRITE_MASK;
        h.write(regs::RLUP_RSS_COMMAND, command | word);
    }
    let config = regs::RLUP_RSS_CONFIG_IPV4_RSS_TYPE_ALL_XI | regs::RLUP_RSS_CONFIG_IPV6_RSS_TYPE_ALL_XI;
    h.write(regs::RLUP_RSS_CONFIG, config);
    open_filter(&mut h);
    let ack = |h: &mut Host, n: u32| {
        let index = h.status.load16(if n == 0 { 54 } else { block(n, 14) });
        let valid = regs::PCICFG_INT_ACK_CMD_INDEX_VALID;
        h.write(regs::PCICFG_INT_ACK_CMD, n << 24 | valid | u32::from(index));
    };
    (0..=VECTORS).for_each(|n| ack(&mut h, n));
    h.interrupts();
    for (i, t) in tx.iter_mut().enumerate() {
        t.send(&mut h, &frame_to([4; 6], 100 + i));
        let n = i as u32 + 1;
        assert!(h.interrupts().contains(Vector(n as u8)) && h.interrupts().is_empty());
        assert_eq!(h.status.load16(block(n, 12)) & 0xff, n as u16, "the block's number");
        ack(&mut h, n);
    }
    for port in 0..200 {
        h.cable.arrive(&checked(tcp(true, port, 20)));
    }
    h.cable.arrive(&frame_to(MAC, 99));
    h.run();
    let spread: Vec<usize> = rx
        .iter_mut()
        .map(|r| r.reap(&mut h))
        .map(|g| {
            assert!(g.iter().all(|f| f.0.l2_fhdr_status.get() & L2_FHDR_STATUS_RSS_HASH != 0));
            g.len()
        })
        .collect();
    assert_eq!(spread.iter().sum::<usize>(), 200);
    assert!(spread.iter().all(|&n| n > 40), "{spread:?}");
    assert_eq!(rest.reap(&mut h).len(), 1, "what is no IP stays with the first ring");
    let arrived = h.interrupts();
    assert!((0..VECTORS as u8).all(|n| arrived.contains(Vector(n))));
    assert_eq!(h.slot.borrow().violations(), []);
}

#[test]
fn the_helper_has_rings_of_its_own_in_both_kinds_of_signalling() {
    let iscsi = ChipConfig::default().iscsi_mac;
    for vector in [0, 3_u32] {
        let mut h = Host::new(ChipConfig::default());
        h.reset_handshake();
        h.start();
        let (mut tx, mut rx) = if vector == 0 {
            (Tx::new(&mut h, ctx::UIO_TX_CID, TX2), Rx::new(&mut h, ctx::UIO_RX_CID, RX2, 1))
        } else {
            let sb = (vector + ctx::KRNLQ_STATUSB_BASE) << ctx::BNX2_L2CTX_L2_STATUSB_NUM_SHIFT;
            h.context_write(ctx::UIO_RX_CID, ctx::BNX2_L2CTX_HOST_BDIDX, sb);
            let at = vector as usize * 128;
            (Tx::new(&mut h, ctx::TX_TSS_CID + vector - 1, at + 2), Rx::new(&mut h, ctx::UIO_RX_CID, at, 1))
        };
        h.write(regs::EMAC_MAC_MATCH4, 0x0010);
        h.write(regs::EMAC_MAC_MATCH5, 0x18aa_bbcd);
        let rule = 4 | regs::RPM_SORT_USER0_BC_EN | regs::RPM_SORT_USER0_MC_EN;
        h.write(regs::RPM_SORT_USER2, rule | regs::RPM_SORT_USER0_ENA);
        tx.send(&mut h, &frame_to([4; 6], 60));
        assert_eq!(h.cable.sent().len(), 1);
        h.cable.arrive(&frame_to(iscsi, 80));
        h.cable.arrive(&frame_to(MAC, 80));
        h.cable.arrive(&frame_to([0xff; 6], 80));
        h.run();
        assert_eq!(rx.reap(&mut h).len(), 2);
        // FLUSH: the buffers are let go, until the ring starts over.
        let flush = Kwqe { kwqe_op_flag: U32::new(2 << 28 | 4 << 16 | ctx::UIO_RX_CID), ..Kwqe::default() };
        h.submit(&[flush]);
        h.cable.arrive(&frame_to(iscsi, 80));
        h.run();
        assert_eq!((rx.take(&h).len(), h.card.with(|c| c.counters().rx_no_buffer)), (0, 1));
        let mut again = Rx::new(&mut h, ctx::UIO_RX_CID, if vector == 0 { RX2 } else { 3 * 128 }, 1);
        h.cable.arrive(&frame_to(iscsi, 81));
        h.run();
        assert_eq!(again.take(&h).len(), 1, "indexes start at zero");
        assert_eq!(h.slot.borrow().violations(), []);
    }
}

#[test]
fn a_reset_in_the_middle_forgets_the_rings() {
    let (mut h, mut tx, rx) = nic();
    for n in 0..40 {
        tx.post(&frame_to([4; 6], 100), 114, Orders::default());
        h.cable.arrive(&frame_to(MAC, n));
    }
    h.write16(hsi::bcm5709::doorbell::mailbox(ctx::TX_CID) + ctx::BNX2_L2CTX_TX_HOST_BIDX, tx.producer);
    h.write(hsi::bcm5709::doorbell::mailbox(ctx::TX_CID) + ctx::BNX2_L2CTX_TX_HOST_BSEQ, 1);
    h.step(10);
    h.reset_handshake();
    let sent = h.cable.sent().len();
    assert!((1..40).contains(&sent));
    tx.ring(&mut h);
    rx.ring(&mut h);
    assert_eq!(h.cable.sent().len(), 0, "not a single frame after the reset");
    assert_eq!(h.slot.borrow().violations(), []);
    h.start();
    let mut tx = Tx::new(&mut h, ctx::TX_CID, TX0);
    let mut rx = Rx::new(&mut h, ctx::RX_CID, RX0, 1);
    open_filter(&mut h);
    tx.send(&mut h, &frame_to([4; 6], 60));
    h.cable.arrive(&frame_to(MAC, 70));
    h.run();
    assert_eq!((h.cable.sent().len(), rx.reap(&mut h).len()), (1, 1));
}

#[test]
fn descriptors_that_are_no_frame_cost_a_counter_and_not_the_ring() {
    let (mut h, mut tx, _rx) = nic();
    let bd = |flags: u32, bytes: u16, at: u64| {
        let mut bd = TxBd::default();
        bd.set_haddr(at);
        bd.set_mss_nbytes(0, bytes);
        bd.set_vlan_tag_flags(0, flags as u16);
        bd
    };
    let (start, end) = (TX_BD_FLAGS_START, TX_BD_FLAGS_END);
    let at = tx.pages.addr();
    tx.put(&bd(end, 60, at));
    tx.put(&bd(start, 60, at));
    tx.put(&bd(start | end, 60, at));
    tx.put(&bd(start | end, 0, at));
    for _ in 0..3 {
        tx.put(&bd(start, 4000, at));
        tx.put(&bd(0, 4000, at));
        tx.put(&bd(end, 4000, at));
    }
    tx.put(&bd(start, 60, at));
    for _ in 0..70 {
        tx.put(&bd(0, 1, at));
    }
    tx.put(&bd(end, 1, at));
    let mut lso = bd(start | end | TX_BD_FLAGS_SW_LSO, 100, at);
    lso.set_mss_nbytes(1460, 100);
    tx.put(&lso);
    tx.ring(&mut h);
    assert!(tx.done(&h));
    let c = h.card.with(|c| c.counters());
    assert_eq!((c.tx_malformed, c.tx_frames, c.ring_faults), (9, 0, 0));
    // A frame whose end is still to come waits for it.
    tx.put(&bd(start, 60, at));
    tx.ring(&mut h);
    assert!(!tx.done(&h));
    tx.put(&bd(end, 60, at));
    tx.ring(&mut h);
    assert!(tx.done(&h) && h.cable.sent()[0].len() == 120);
    // Data that is nowhere stops the ring, with an attention, until it is set up again.
    tx.put(&bd(start | end, 60, 0xdead_0000));
    tx.ring(&mut h);
    tx.send_nothing(&mut h);
    assert_ne!(h.status.load32(0) & hsi::bcm5709::status_block::STATUS_ATTN_BITS_TX_DMA_ABORT, 0);
    let mut tx = Tx::new(&mut h, ctx::TX_CID, TX0);
    tx.send(&mut h, &frame_to([4; 6], 60));
}

#[test]
fn without_a_link_frames_go_nowhere() {
    let (mut h, mut tx, mut rx) = nic();
    h.card.with(|c| c.set_link(false));
    tx.send(&mut h, &frame_to([4; 6], 60));
    h.cable.arrive(&frame_to(MAC, 60));
    h.run();
    assert_eq!((h.cable.sent().len(), rx.take(&h).len()), (0, 0));
    assert_eq!(h.card.with(|c| c.counters().tx_without_link), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a host puts into descriptors, contexts and mailboxes: the card comes to rest and works after
    /// a reset.
    #[test]
    fn garbage_in_the_rings_is_harmless(
        bds in prop::collection::vec((any::<[u32; 4]>(), any::<bool>()), 1..80),
        words in prop::collection::vec((0_u32..12, 0_u32..0x60, any::<u32>()), 0..12),
        indexes in prop::collection::vec((0_u32..40, 0_usize..4, any::<u16>()), 1..12),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
    ) {
        let (mut h, mut tx, rx) = nic();
        h.write(regs::RPM_SORT_USER0, regs::RPM_SORT_USER0_ENA | regs::RPM_SORT_USER0_PROM_EN);
        h.write(regs::RLUP_RSS_CONFIG, 5);
        let sane = tx.pages.addr();
        for (raw, near) in &bds {
            let mut bd = TxBd::default();
            bd.set_haddr(if *near { sane } else { u64::from(raw[0]) << 32 | u64::from(raw[1]) });
            bd.set_mss_nbytes((raw[2] >> 16) as u16, raw[2] as u16 & 0xfff);
            bd.set_vlan_tag_flags(0, raw[3] as u16);
            tx.put(&bd);
            let at = (raw[0] % 256) as usize * 16;
            rx.pages.write(at, bd.bytes());
        }
        for (cid, offset, value) in words {
            h.context_write(cid, offset * 4, value);
        }
        frames.iter().for_each(|f| h.cable.arrive(f));
        tx.ring(&mut h);
        for (cid, word, value) in indexes {
            let offset = [ctx::BNX2_L2CTX_TX_HOST_BIDX, ctx::BNX2_L2CTX_TX_HOST_BSEQ, ctx::BNX2_L2CTX_HOST_BDIDX,
                ctx::BNX2_L2CTX_HOST_PG_BDIDX][word];
            h.write16(hsi::bcm5709::doorbell::mailbox(cid) + offset, value);
            h.write(hsi::bcm5709::doorbell::mailbox(cid) + ctx::BNX2_L2CTX_TX_HOST_BSEQ, value.into());
            frames.iter().for_each(|f| h.cable.arrive(f));
            h.run();
        }
        h.cable.0.borrow_mut().arriving.clear();
        h.cable.sent();
        h.reset_handshake();
        h.start();
        let mut tx = Tx::new(&mut h, ctx::TX_CID, TX0);
        let mut rx = Rx::new(&mut h, ctx::RX_CID, RX0, 1);
        open_filter(&mut h);
        tx.send(&mut h, &frame_to([4; 6], 60));
        h.cable.arrive(&frame_to(MAC, 70));
        h.run();
        prop_assert_eq!((h.cable.sent().len(), rx.reap(&mut h).len()), (1, 1));
    }
}

/// Statistics, as the card writes them on command.
fn statistics(h: &mut Host) -> StatisticsBlock {
    let buf = h.lent(4096);
    h.write(regs::HC_STATISTICS_ADDR_L, buf.addr() as u32);
    h.write(regs::HC_STATISTICS_ADDR_H, (buf.addr() >> 32) as u32);
    h.write(regs::HC_COMMAND, regs::HC_COMMAND_STATS_NOW);
    h.run();
    let mut bytes = [0; 324];
    buf.read(0, &mut bytes);
    StatisticsBlock::from_bytes(bytes)
}

/// With flow control a full ring loses no frame: the partner waits until the driver gives buffers back.
#[test]
fn a_full_ring_pauses_the_partner() {
    let (mut h, _tx, mut rx) = nic();
    h.write(regs::EMAC_TX_MODE, regs::EMAC_TX_MODE_FLOW_EN);
    let frames: Vec<_> = (0..700_usize).map(|n| frame_to(MAC, 50 + n)).collect();
    frames.iter().for_each(|f| h.cable.arrive(f));
    let mut got = Vec::new();
    for _ in 0..4 {
        h.run();
        got.extend(rx.reap(&mut h).into_iter().map(|g| g.1));
    }
    assert!(got == frames, "{} frames, in order", got.len());
    let c = h.card.with(|c| c.counters());
    assert_eq!((c.rx_no_buffer, c.rx_paused, h.indirect(regs::FW_RX_DROP_COUNT)), (0, 2, 0));
    let s = statistics(&mut h);
    assert_eq!((s.stat_OutXoffSent.get(), s.stat_OutXonSent.get(), s.stat_IfInMBUFDiscards.get()), (2, 2, 0));

    // A reset lets go of the frame that waits.
    (0..300_usize).for_each(|_| h.cable.arrive(&frame_to(MAC, 50)));
    h.run();
    h.reset_handshake();
    h.start();
    let mut rx = Rx::new(&mut h, ctx::RX_CID, RX0, 1);
    open_filter(&mut h);
    h.cable.arrive(&frame_to(MAC, 77));
    h.run();
    let got = rx.take(&h);
    assert_eq!((got.len(), &got[0].1), (1, &frame_to(MAC, 77)));
}

/// A pause frame stops the transmitter for its time, is not the host's, and counts only with flow control.
#[test]
fn a_pause_of_the_partner_holds_frames_back() {
    let pause = |quanta: u16| {
        let mut f = vec![1, 0x80, 0xc2, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 8, 0, 1];
        f.extend(quanta.to_be_bytes());
        f
    };
    let (mut h, mut tx, mut rx) = nic();
    h.cable.arrive(&pause(1000));
    h.run();
    tx.send(&mut h, &frame_to([4; 6], 60));
    assert_eq!(h.cable.sent().len(), 1, "without flow control nobody is paused");
    h.write(regs::EMAC_RX_MODE, regs::EMAC_RX_MODE_FLOW_EN);
    for quanta in [30_000, 0xffff_u16] {
        h.cable.arrive(&pause(quanta));
        h.run();
        tx.post(&frame_to([4; 6], 60), 60, Orders::default());
        tx.ring(&mut h);
        // The rig passes over waits of a millisecond by itself.
        let near = std::time::Duration::from_millis(2);
        h.now += std::time::Duration::from_nanos(512) * u32::from(quanta) - near;
        h.run();
        assert_eq!(h.cable.sent().len(), 0, "{quanta}");
        h.now += near;
        h.run();
        assert_eq!(h.cable.sent().len(), 1, "{quanta}");
    }
    h.cable.arrive(&pause(0xffff));
    h.cable.arrive(&pause(0));
    h.run();
    tx.send(&mut h, &frame_to([4; 6], 60));
    assert_eq!((h.cable.sent().len(), rx.take(&h).len()), (1, 0), "no quanta end it");
    let s = statistics(&mut h);
    assert_eq!((s.stat_XoffPauseFramesReceived.get(), s.stat_XonPauseFramesReceived.get()), (3, 1));
    assert_eq!(s.stat_MacControlFramesReceived.get(), 5);
}

//! Steady state allocates nothing per frame.

mod rig;

use os::heap::{Counting, allocations};
use rig::*;
use smoltcp::wire::{ArpOperation, Icmpv4Repr};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn answering_arp_and_echoes_allocates_nothing() {
    let mut r = Rig::up(&["ip=10.0.0.3/24", "ip=fd00::3/64"]);
    r.responder = Some(answers_arp(HOST, PEER));
    r.want(1, HOST);
    r.run(100);
    let arp = arp(ArpOperation::Request, (PEER, HOST), ([0; 6], OURS), BROADCAST);
    let echo = Icmpv4Repr::EchoRequest { ident: 5, seq_no: 1, data: &[7; 500] };
    let echo = icmp4((PEER, HOST), (MAC, OURS), &echo);
    let (mut in_steps, mut frames) = (0, 0);
    for n in 0..600 {
        assert!(r.card.as_mut().expect("open").deliver(if n % 2 == 0 { &arp } else { &echo }, None));
        let before = allocations();
        r.step();
        // The first frames make the buffers that all others use.
        if n >= 50 {
            in_steps += allocations() - before;
            frames += 1;
        }
        r.run(0);
    }
    assert_eq!((frames, in_steps), (550, 0));
    assert_eq!(r.helper.counters().stack.echo_replies, 300);
}

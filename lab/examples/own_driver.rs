//! A driver of one's own: the card in a slot, and nothing of ours on the host's side but the trait
//! [`bus::pci::Platform`].
//!
//! It looks for the card, gives it a status block in DMA memory, asks for it to be published, and takes the
//! interrupt. The same code would drive a card in another process, over `bus::vfio_user::client`.
//!
//! `cargo run --example own_driver -p lab`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use bus::actor::{Actor, Budget, Cx};
use bus::config::{COMMAND, COMMAND_BUS_MASTER, COMMAND_MEMORY};
use bus::inproc::{CardActor, InProcess, Slot, SlotConfig};
use bus::pci::{Bar, BusLost, Dir, Platform, Proof, ResetKind};
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::wake::WakeSet;
use bus::{ActorId, Instant};
use hsi::bcm5709::regs;
use hw_model::bcm5709::{Bcm5709, Card};
use hw_model::config::ChipConfig;
use hw_model::fault::Faults;
use hw_model::tcp::memory::MemoryNet;

const BAR0: Bar = Bar(0);

fn drive<P: Platform>(
    p: &mut P,
    cx: &mut Cx<'_>,
    mut step_card: impl FnMut(&mut Cx<'_>),
) -> Result<(), BusLost> {
    p.config_write(cx, COMMAND, COMMAND_MEMORY | COMMAND_BUS_MASTER);
    println!(
        "vendor and device {:08x}, chip {:08x}",
        p.config_read(cx, 0)?,
        p.read32(cx, BAR0, regs::MISC_ID.into())?
    );

    let block = p.dma_alloc(4096, "status block").map_err(|_| BusLost)?;
    // The strict bus refuses whatever the card does to memory that was not lent.
    let loan = p.lend(&block, 0..4096, Dir::FromCard);
    p.write32(cx, BAR0, regs::HC_STATUS_ADDR_L.into(), block.addr() as u32);
    p.write32(cx, BAR0, regs::HC_STATUS_ADDR_H.into(), (block.addr() >> 32) as u32);
    p.write32(cx, BAR0, regs::HC_COMMAND.into(), regs::HC_COMMAND_ENABLE | regs::HC_COMMAND_COAL_NOW);
    step_card(cx);
    println!("attention bits {:#x}, interrupts {:?}", block.load32(0), p.take_interrupts());

    // Only a reset proves that the card is done with the block.
    let proof = p.reset(cx, ResetKind::Flr)?;
    p.reclaim(loan, Proof::Revoked(proof));
    p.dma_free(block);
    Ok(())
}

fn main() {
    let wakes = WakeSet::default();
    let tcp = MemoryNet::default().card(wakes.register());
    let card = Card::new(Bcm5709::new(ChipConfig::default(), Faults::default(), tcp));
    let config = SlotConfig { strict: true, ..SlotConfig::default() };
    let slot = Slot::new(config, ActorId::new("card", 0), Box::new(card), wakes.register(), wakes.register());
    let (mut card, mut platform) = (CardActor(slot.clone()), InProcess(slot.clone()));
    let (mut rng, mut trace) = (Seeded::new(1), Trace::off());
    let mut cx =
        Cx { now: Instant::ZERO, actor: ActorId::new("driver", 0), rng: &mut rng, trace: &mut trace };
    let outcome = drive(&mut platform, &mut cx, |cx| {
        card.step(cx, Budget(64));
    });
    println!("{outcome:?}; left over: {:?}", slot.borrow().audit());
}

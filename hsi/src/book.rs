//! The register of everything in the data book: what the conformance test compares with the headers' tables,
//! and what references are generated from.

use crate::facts::{Fact, Layout};

/// Every structure of the crate, by module.
pub const LAYOUTS: &[&[Layout]] = &[
    crate::iscsi::bd::LAYOUTS,
    crate::iscsi::cq::LAYOUTS,
    crate::iscsi::cq::UNION_LAYOUTS,
    crate::kernel::kcq::LAYOUTS,
    crate::kernel::kwq::LAYOUTS,
    crate::bcm5709::l2::LAYOUTS,
    crate::kernel::l4::LAYOUTS,
    crate::bcm5709::pte::LAYOUTS,
    crate::iscsi::rq::LAYOUTS,
    crate::iscsi::sq::LAYOUTS,
    crate::bcm5709::statistics::LAYOUTS,
    crate::bcm5709::status_block::LAYOUTS,
];

/// Every constant of the crate, by module.
pub const FACTS: &[&[Fact]] = &[
    crate::iscsi::bd::FACTS,
    crate::iscsi::bits::FACTS,
    crate::iscsi::bits::TaskType::FACTS,
    crate::iscsi::cq::FACTS,
    crate::iscsi::cq::CqOpcode::FACTS,
    crate::bcm5709::ctx::FACTS,
    crate::bcm5709::doorbell::FACTS,
    crate::kernel::kcq::FACTS,
    crate::kernel::kcq::CompletionStatus::FACTS,
    crate::kernel::kcq::IscsiKcqeOpcode::FACTS,
    crate::kernel::kwq::FACTS,
    crate::kernel::kwq::IscsiKwqeOpcode::FACTS,
    crate::kernel::kwq::L2KwqeOpcode::FACTS,
    crate::kernel::kwq::Layer::FACTS,
    crate::bcm5709::l2::FACTS,
    crate::kernel::l4::FACTS,
    crate::kernel::l4::L4KcqeOpcode::FACTS,
    crate::kernel::l4::L4KwqeOpcode::FACTS,
    crate::kernel::l4::L4Status::FACTS,
    crate::bcm5709::limits::FACTS,
    crate::bcm5709::regs::context::FACTS,
    crate::bcm5709::regs::cpu::FACTS,
    crate::bcm5709::regs::emac::FACTS,
    crate::bcm5709::regs::hc::FACTS,
    crate::bcm5709::regs::misc::FACTS,
    crate::bcm5709::regs::mq::FACTS,
    crate::bcm5709::regs::nvm::FACTS,
    crate::bcm5709::regs::pci::FACTS,
    crate::bcm5709::regs::rss::FACTS,
    crate::bcm5709::shmem::FACTS,
    crate::iscsi::sq::FACTS,
    crate::iscsi::sq::SqOpcode::FACTS,
    crate::bcm5709::status_block::FACTS,
];

//! The handle on a card that sits in a slot.

use std::cell::RefCell;
use std::rc::Rc;

use bus::pci::{Bar, DevCx, FunctionLayout, PciFunction, ResetKind, ResetReport, Width};
use bus::{Budget, Progress};

use super::Bcm5709;
use crate::tcp::TcpEngine;

/// A card that its maker keeps a handle on while it sits in a slot: for counters, listings, and the carrier
/// of the wire.
pub struct Card<T> {
    layout: FunctionLayout,
    inner: Rc<RefCell<Bcm5709<T>>>,
}

impl<T: TcpEngine> Card<T> {
    /// Wraps a card.
    #[must_use]
    pub fn new(card: Bcm5709<T>) -> Self {
        Self { layout: card.layout().clone(), inner: Rc::new(RefCell::new(card)) }
    }

    /// Looks at the card, or changes its carrier. Panics when called from inside the card.
    pub fn with<R>(&self, f: impl FnOnce(&mut Bcm5709<T>) -> R) -> R {
        f(&mut self.inner.borrow_mut())
    }
}

impl<T> Clone for Card<T> {
    fn clone(&self) -> Self {
        Self { layout: self.layout.clone(), inner: self.inner.clone() }
    }
}

impl<T: TcpEngine> PciFunction for Card<T> {
    fn layout(&self) -> &FunctionLayout {
        &self.layout
    }

    fn read(&mut self, cx: &mut DevCx<'_>, bar: Bar, at: u64, width: Width) -> u64 {
        self.inner.borrow_mut().read(cx, bar, at, width)
    }

    fn write(&mut self, cx: &mut DevCx<'_>, bar: Bar, at: u64, width: Width, value: u64) {
        self.inner.borrow_mut().write(cx, bar, at, width, value);
    }

    fn config_read(&mut self, cx: &mut DevCx<'_>, at: u16) -> u32 {
        self.inner.borrow_mut().config_read(cx, at)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, at: u16, value: u32, mask: u32) {
        self.inner.borrow_mut().config_write(cx, at, value, mask);
    }

    fn step(&mut self, cx: &mut DevCx<'_>, budget: Budget) -> Progress {
        self.inner.borrow_mut().step(cx, budget)
    }

    fn reset(&mut self, cx: &mut DevCx<'_>, kind: ResetKind) -> ResetReport {
        self.inner.borrow_mut().reset(cx, kind)
    }
}

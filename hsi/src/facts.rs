//! What this crate claims about the hardware/software interface, in a form that can be checked.
//!
//! Every structure and constant of the other modules is declared through one of three macros, which emit the
//! Rust item and, from the same tokens, an entry of the lists below. The conformance test compares the lists
//! with tables that a compiler took from the vendor's headers, in both directions; register listings and
//! generated references can read them too. Nothing here runs on the data path.

/// Which number space an offset belongs to (the `space` column of the register table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// BAR0 offset; above 64 KiB reached through the indirect window.
    Grc,
    /// PCI configuration space, mirrored at the start of BAR0.
    PciCfg,
    /// Offset in a connection context.
    Ctx,
    /// Offset from the function's base in the management processor's shared memory.
    Shmem,
    /// Offset inside the host-coalescing registers of one MSI-X vector.
    HcSb,
}

/// What kind of fact a number is, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Offset of a register or memory word.
    Register(Space),
    /// In-place mask: structure or register, field (empty for a register).
    Bits(&'static str, &'static str),
    /// Value inside a masked field, already shifted into place: structure or register, field.
    Value(&'static str, &'static str),
    /// Macro or enumerator of the vendor's headers.
    Constant(),
    /// Not in the vendor's headers: RFC 7143, PCI, or the measured behaviour of the chip.
    External(),
}

/// One named number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Name in the HSI tables.
    pub name: &'static str,
    /// The number, widened.
    pub value: u64,
    /// What it is.
    pub kind: Kind,
    /// What it means, where the name does not say it.
    pub doc: &'static str,
}

/// One field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in the HSI tables (and in Rust).
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Its type's shape.
    pub shape: Shape,
}

/// Size and inner structure of a type that appears in host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes.
    pub size: usize,
    /// Number of elements if it is an array.
    pub array_len: Option<usize>,
    /// Fields if it is a structure or union; empty for an integer.
    pub fields: &'static [Field],
}

impl Shape {
    const fn integer(size: usize) -> Self {
        Self { size, array_len: None, fields: &[] }
    }
}

/// A type with a layout fixed by the interface.
pub trait Wire {
    /// Its size and fields.
    const SHAPE: Shape;
}

impl Wire for u8 {
    const SHAPE: Shape = Shape::integer(1);
}

impl Wire for crate::U16 {
    const SHAPE: Shape = Shape::integer(2);
}

impl Wire for crate::U32 {
    const SHAPE: Shape = Shape::integer(4);
}

impl<T: Wire, const N: usize> Wire for [T; N] {
    const SHAPE: Shape = Shape { size: N * T::SHAPE.size, array_len: Some(N), fields: T::SHAPE.fields };
}

/// One structure of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name in the HSI tables.
    pub name: &'static str,
    /// Size and fields.
    pub shape: Shape,
}

/// Declares interface structures: `pub struct Name = "hsi_name" [size] { pub field: Type, ... }`.
///
/// Fields are private where the interface reserves them; `Default` zeroes the whole structure.
macro_rules! wire {
    ($($(#[$meta:meta])* pub struct $name:ident = $hsi:literal [$size:literal] {
        $($(#[$fmeta:meta])* $vis:vis $field:ident: $ty:ty),+ $(,)?
    })+) => {$(
        $(#[$meta])*
        #[doc = concat!("\n\nHSI: `", $hsi, "`, ", stringify!($size), " bytes.")]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout,
            zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$fmeta])* $vis $field: $ty,)+
        }

        const _: () = assert!(size_of::<$name>() == $size);

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }

        impl $name {
            /// From its bytes in host memory.
            pub const fn from_bytes(bytes: [u8; $size]) -> Self {
                zerocopy::transmute!(bytes)
            }

            /// Its bytes in host memory.
            pub const fn bytes(&self) -> &[u8; $size] {
                zerocopy::transmute_ref!(self)
            }
        }

        impl $crate::facts::Wire for $name {
            const SHAPE: $crate::facts::Shape = $crate::facts::Shape {
                size: size_of::<$name>(),
                array_len: None,
                fields: &[$($crate::facts::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                    shape: <$ty as $crate::facts::Wire>::SHAPE,
                }),+],
            };
        }
    )+
        /// Layouts declared in this module.
        pub(crate) const LAYOUTS: &[$crate::facts::Layout] =
            &[$($crate::facts::Layout { name: $hsi, shape: <$name as $crate::facts::Wire>::SHAPE }),+];
    };
}

/// Declares constants: `prefix "P_"; Kind(args): type { NAME = value, ... }`, where `P_NAME` is the HSI name.
macro_rules! facts {
    (prefix $prefix:literal; $($kind:ident $args:tt: $ty:ty {
        $($(#[doc = $doc:literal])* $name:ident = $value:expr),+ $(,)?
    })+) => {
        $($(
            $(#[doc = $doc])*
            #[doc = concat!("\n\nHSI: `", $prefix, stringify!($name), "`.")]
            pub const $name: $ty = $value;
        )+)+

        /// Constants declared in this module.
        pub(crate) const FACTS: &[$crate::facts::Fact] = {
            #[allow(unused_imports, reason = "not every module has registers")]
            use $crate::facts::{Fact, Kind, Space::*};
            &[$($(Fact {
                name: concat!($prefix, stringify!($name)),
                value: $name as u64,
                kind: Kind::$kind $args,
                doc: concat!($($doc),*),
            }),+),+]
        };
    };
}

/// Declares an open enumeration: a newtype that keeps unknown values, with named constants.
///
/// `NAME = 1` has the HSI name `prefix + NAME`; `NAME = 1 => "OTHER"` names it; `NAME = 1 => external` is a
/// number that the HSI tables do not hold.
macro_rules! open_enum {
    (@fact $name:ident, $value:expr, $prefix:literal) => {
        $crate::facts::Fact {
            name: concat!($prefix, stringify!($name)), value: $value as u64, kind: $crate::facts::Kind::Constant(), doc: "",
        }
    };
    (@fact $name:ident, $value:expr, $prefix:literal, external) => {
        $crate::facts::Fact { name: stringify!($name), value: $value as u64, kind: $crate::facts::Kind::External(), doc: "" }
    };
    (@fact $name:ident, $value:expr, $prefix:literal, $hsi:literal) => {
        $crate::facts::Fact { name: $hsi, value: $value as u64, kind: $crate::facts::Kind::Constant(), doc: "" }
    };
    ($(#[$meta:meta])* pub struct $ty:ident($int:ty), prefix $prefix:literal {
        $($(#[$cmeta:meta])* $name:ident = $value:literal $(=> $source:tt)?),+ $(,)?
    }) => {
        $(#[$meta])*
        #[doc = "\n\nOpen: values without a name are kept and print as numbers."]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $ty(pub $int);

        impl $ty {
            $(
                $(#[$cmeta])*
                #[doc = concat!("\n\n`", stringify!($value), "`")]
                pub const $name: Self = Self($value);
            )+

            /// The constants of this type.
            pub(crate) const FACTS: &'static [$crate::facts::Fact] =
                &[$($crate::facts::open_enum!(@fact $name, $value, $prefix $(, $source)?)),+];

            /// Name of the value, if it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)+
                    _ => None,
                }
            }
        }

        impl core::fmt::Debug for $ty {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}({:#x})", stringify!($ty), self.0),
                }
            }
        }
    };
}

/// Declares an open enumeration that is a one-byte field of structures.
macro_rules! byte_enum {
    ($(#[$meta:meta])* pub struct $ty:ident(u8), $($rest:tt)+) => {
        $crate::facts::open_enum! {
            $(#[$meta])*
            #[derive(
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
                zerocopy::Unaligned,
            )]
            pub struct $ty(u8), $($rest)+
        }

        impl $crate::facts::Wire for $ty {
            const SHAPE: $crate::facts::Shape = <u8 as $crate::facts::Wire>::SHAPE;
        }
    };
}

/// Accessors for a 64-bit address that lies in two words: `Type { get / set = hi, lo; }`.
macro_rules! addr64 {
    ($($ty:ident { $($get:ident / $set:ident = $hi:ident, $lo:ident;)+ })+) => {$(
        impl $ty {$(
            #[doc = concat!("`", stringify!($hi), "` and `", stringify!($lo), "` as one bus address.")]
            pub const fn $get(&self) -> u64 {
                (self.$hi.get() as u64) << 32 | self.$lo.get() as u64
            }

            #[doc = concat!("Sets `", stringify!($hi), "` and `", stringify!($lo), "` from a bus address.")]
            pub const fn $set(&mut self, addr: u64) {
                self.$hi = $crate::U32::new((addr >> 32) as u32);
                self.$lo = $crate::U32::new(addr as u32);
            }
        )+}
    )+};
}

/// `blank` constructors: `Type { field = value, ... }` leaves everything else zero.
macro_rules! blank {
    ($($ty:ident { $($field:ident = $value:expr),+ })+) => {$(
        impl $ty {
            #[doc = concat!("All zero but for ", $("`", stringify!($field), "` = `", stringify!($value), "`, ",)+ "to fill in.")]
            pub fn blank() -> Self {
                Self { $($field: $value,)+ ..Self::default() }
            }
        }
    )+};
}

/// Declares which structures are views of a generic ring element.
macro_rules! views {
    ($generic:ident: $($ty:ident),+ $(,)?) => {$(
        impl $crate::View<$generic> for $ty {
            fn of(element: &$generic) -> &Self {
                zerocopy::transmute_ref!(element)
            }

            fn of_mut(element: &mut $generic) -> &mut Self {
                zerocopy::transmute_mut!(element)
            }

            fn into_element(self) -> $generic {
                zerocopy::transmute!(self)
            }
        }
    )+};
}

pub(crate) use {addr64, blank, byte_enum, facts, open_enum, views, wire};

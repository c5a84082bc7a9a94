//! What the engine counts.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the engine. They only grow; a reset of the chip does not clear them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct EngineCounters { $($(#[$doc])* pub $name: u64,)* }

        impl EngineCounters {
            /// Names and values, in order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// SQ entries processed.
    wqes,
    /// SQ entries refused: the connection went into error.
    bad_wqes,
    /// Doorbells ignored: unknown connection, or an index that the ring cannot have.
    bad_doorbells,
    /// OFFLOAD_CONN refused for its page tables.
    bad_tables,
    /// Control requests in a state that does not allow them.
    host_errors,
    /// CQ entries posted.
    cqes,
    /// CQ entries posted although the host may not have consumed what they overwrote.
    suspected_overruns,
    /// PDUs sent.
    pdus_out,
    /// PDUs received whole.
    pdus_in,
    /// PDUs dropped: late for a cleaned task, or after a warning that left nothing to do.
    pdus_dropped,
    /// Bytes dropped because the connection was in error or closing.
    bytes_dropped,
    /// Payload bytes placed in host memory.
    bytes_placed,
    /// Payload bytes taken from host memory.
    bytes_taken,
    /// Calls of the transport's send.
    sends,
    /// Calls of the transport's receive.
    receives,
    /// Receptions that stopped for want of an RQ buffer.
    rq_stalls,
    /// Transmissions that stopped because the transport took no more.
    tx_stalls,
    /// Protocol violations reported as warnings.
    warnings,
    /// Connections that went into error.
    errors,
    /// Accesses to host memory that the bus refused.
    dma_faults,
    /// Tasks forgotten by CLEANUP.
    cleanups,
    /// CLOSEs that ended by RST because the peer did not answer.
    close_timeouts,
}

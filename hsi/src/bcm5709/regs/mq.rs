//! Mailbox queue: what happens to a write into the mailbox of a CID.

use crate::facts::facts;

facts! {
    prefix "BNX2_";
    Register(Grc): u32 {
        /// Enable and errors.
        MQ_COMMAND = 0x3c00,
    }
    Bits("BNX2_MQ_COMMAND", ""): u32 {
        MQ_COMMAND_ENABLED = 0x1,
        MQ_COMMAND_INIT = 0x2,
        MQ_COMMAND_OVERFLOW = 0x10,
        MQ_COMMAND_WR_ERROR = 0x20,
        MQ_COMMAND_RD_ERROR = 0x40,
        MQ_COMMAND_IDB_CFG_ERROR = 0x80,
        MQ_COMMAND_IDB_OVERFLOW = 0x400,
        MQ_COMMAND_NO_BIN_ERROR = 0x800,
        MQ_COMMAND_NO_MAP_ERROR = 0x1000,
    }
    Register(Grc): u32 {
        /// State.
        MQ_STATUS = 0x3c04,
        /// Modes; block size of kernel bypass.
        MQ_CONFIG = 0x3c08,
    }
    Bits("BNX2_MQ_CONFIG", ""): u32 {
        MQ_CONFIG_TX_HIGH_PRI = 0x1,
        MQ_CONFIG_HALT_DIS = 0x2,
        MQ_CONFIG_BIN_MQ_MODE = 0x4,
        MQ_CONFIG_DIS_IDB_DROP = 0x8,
        MQ_CONFIG_KNL_BYP_BLK_SIZE = 0x70,
        MQ_CONFIG_MAX_DEPTH = 0x7f00,
        MQ_CONFIG_CUR_DEPTH = 0x7f00000,
    }
    Value("BNX2_MQ_CONFIG", ""): u32 {
        MQ_CONFIG_KNL_BYP_BLK_SIZE_256 = 0x0,
        MQ_CONFIG_KNL_BYP_BLK_SIZE_512 = 0x10,
        MQ_CONFIG_KNL_BYP_BLK_SIZE_1K = 0x20,
        MQ_CONFIG_KNL_BYP_BLK_SIZE_2K = 0x30,
        MQ_CONFIG_KNL_BYP_BLK_SIZE_4K = 0x40,
    }
    Register(Grc): u32 {
        /// Address of a bad write.
        MQ_BAD_WR_ADDR = 0x3c14,
        /// Address of a bad read.
        MQ_BAD_RD_ADDR = 0x3c18,
        /// Start of the kernel bypass window.
        MQ_KNL_BYP_WIND_START = 0x3c1c,
        /// End of the kernel window.
        MQ_KNL_WIND_END = 0x3c20,
        /// Which kernel mailbox words may be written.
        MQ_KNL_WRITE_MASK1 = 0x3c24,
        /// Which of them start transmission.
        MQ_KNL_TX_MASK1 = 0x3c28,
        /// Which of them start a command.
        MQ_KNL_CMD_MASK1 = 0x3c2c,
        /// Which of them are queued on condition.
        MQ_KNL_COND_ENQUEUE_MASK1 = 0x3c30,
        /// Which of them go to the receive processor.
        MQ_KNL_RX_V2P_MASK1 = 0x3c34,
        /// Memory write address.
        MQ_MEM_WR_ADDR = 0x3c74,
        /// Memory write data.
        MQ_MEM_WR_DATA0 = 0x3c78,
        /// Maps a mailbox word of an L2 ring to its context.
        MQ_MAP_L2_3 = 0x3d2c,
    }
    Bits("BNX2_MQ_MAP_L2_3", ""): u32 {
        MQ_MAP_L2_3_MQ_OFFSET = 0xff,
        MQ_MAP_L2_3_SZ = 0x300,
        MQ_MAP_L2_3_CTX_OFFSET = 0xbfc00,
        MQ_MAP_L2_3_BIN_OFFSET = 0x3800000,
        MQ_MAP_L2_3_ARM = 0xc000000,
        MQ_MAP_L2_3_ENA = 0x80000000,
    }
    Value("BNX2_MQ_MAP_L2_3", ""): u32 {
        MQ_MAP_L2_3_DEFAULT = 0x82004646,
    }
    Register(Grc): u32 {
        /// The same for the next word.
        MQ_MAP_L2_5 = 0x3d34,
    }
    Bits("BNX2_MQ_MAP_L2_5", ""): u32 {
        MQ_MAP_L2_5_ARM = 0xc000000,
    }
    Register(Grc): u32 {
        /// Bin mode of the doorbells: context size and first L4/L5 CID.
        MQ_CONFIG2 = 0x3d00,
    }
    Constant(): u32 {
        /// CIDs per connection, times eight; zero selects plain mailboxes.
        MQ_CONFIG2_CONT_SZ = 0x70,
        /// First CID of layers 4 and 5, not shifted.
        MQ_CONFIG2_FIRST_L4L5 = 0x1f00,
    }
}

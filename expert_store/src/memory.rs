//! The slots themselves, tier by tier.

use crate::executor::Target;
use crate::io::{HostSlot, allocate_slots};
use crate::residency::{Extent, SlotId};
use odmoe_backend::{AllocateError, Backend, Buffer};
use odmoe_formats::ByteCount;

/// The memory behind the machine's slots. Tier 0 is the backend's; a tier behind it is the host's.
#[derive(Default)]
pub(crate) struct SlotMemory {
    /// By class and place; None where there is no slot now.
    device: Vec<Vec<Option<Buffer>>>,
    /// None also while a reader has the slot.
    host: Vec<Vec<Option<HostSlot>>>,
}

impl SlotMemory {
    /// Makes the slots of an extent.
    pub fn allocate(&mut self, backend: &dyn Backend, extent: Extent) -> Result<(), AllocateError> {
        match extent.tier {
            0 => place(&mut self.device, extent, carve_all(backend, extent)?),
            _ => place(&mut self.host, extent, allocate_host(extent)?),
        }
        Ok(())
    }

    /// Lets go of the slots of an extent. Its memory goes back to the system with the last handle to any of them.
    pub fn release(&mut self, extent: Extent) {
        match extent.tier {
            0 => place(&mut self.device, extent, std::iter::repeat_with(|| None)),
            _ => place(&mut self.host, extent, std::iter::repeat_with(|| None)),
        }
    }

    /// The buffer of a slot of tier 0.
    pub fn device(&self, slot: SlotId) -> &Buffer {
        assert_eq!(slot.tier, 0, "the backend's memory is tier 0");
        self.device[slot.class][slot.index]
            .as_ref()
            .expect("only slots that exist are used")
    }

    /// Opens a slot of the last tier for one read.
    pub fn open(&mut self, backend: &dyn Backend, slot: SlotId) -> Target {
        match slot.tier {
            0 => Target::Window(
                backend
                    .host_window(self.device(slot))
                    .expect("unified memory has host windows"),
            ),
            _ => Target::Host(
                self.host[slot.class][slot.index]
                    .take()
                    .expect("a slot has one owner"),
            ),
        }
    }

    /// Takes a slot of the host tier back from a reader.
    pub fn close(&mut self, slot: SlotId, returned: Option<HostSlot>) {
        if let Some(returned) = returned {
            self.host[slot.class][slot.index] = Some(returned);
        }
    }

    /// The bytes in a resident slot of the host tier.
    pub fn host(&self, slot: SlotId) -> &[u8] {
        assert_eq!(slot.tier, 1, "the host's memory is tier 1");
        self.host[slot.class][slot.index]
            .as_ref()
            .expect("no reader has a resident slot")
            .bytes()
    }
}

/// Puts slots in the places of an extent.
fn place<T>(
    classes: &mut Vec<Vec<Option<T>>>,
    extent: Extent,
    slots: impl IntoIterator<Item = Option<T>>,
) {
    let (class, end) = (extent.class, extent.first + extent.slots);
    if classes.len() <= class {
        classes.resize_with(class + 1, Vec::new);
    }
    let places = &mut classes[class];
    if places.len() < end {
        places.resize_with(end, || None);
    }
    for (place, slot) in places[extent.first..end].iter_mut().zip(slots) {
        *place = slot;
    }
}

fn carve_all(backend: &dyn Backend, extent: Extent) -> Result<Vec<Option<Buffer>>, AllocateError> {
    let slot_bytes = extent.slot_bytes as usize;
    let memory = backend.allocate_extent(extent.slots * slot_bytes)?;
    let range = |index: usize| index * slot_bytes..(index + 1) * slot_bytes;
    Ok((0..extent.slots)
        .map(|index| Some(backend.carve(&memory, range(index))))
        .collect())
}

fn allocate_host(extent: Extent) -> Result<Vec<Option<HostSlot>>, AllocateError> {
    let slots = allocate_slots(extent.slots, extent.slot_bytes as usize);
    let refused = |error: std::io::Error| AllocateError {
        backend: "host tier",
        wanted: ByteCount(extent.bytes()),
        reason: error.to_string(),
    };
    Ok(slots.map_err(refused)?.into_iter().map(Some).collect())
}

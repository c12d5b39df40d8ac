//! The slots themselves, tier by tier.

use crate::api::StoreError;
use crate::executor::Target;
use crate::io::{HostSlot, allocate_slots};
use crate::residency::SlotId;
use crate::residency::layout::SlotLayout;
use odmoe_backend::{AllocateError, Backend, Buffer};
use odmoe_formats::ByteCount;

/// The memory behind the machine's slots. Tier 0 is the backend's; a tier behind it is the host's.
pub(crate) struct SlotMemory {
    device: Vec<Vec<Buffer>>,
    /// None while a reader has the slot, or where there is no host tier.
    host: Vec<Vec<Option<HostSlot>>>,
}

impl SlotMemory {
    /// Allocates everything there will ever be.
    pub fn allocate(
        backend: &dyn Backend,
        device: &SlotLayout,
        host: Option<&SlotLayout>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            device: carve_all(backend, device)?,
            host: host.map_or(Ok(Vec::new()), allocate_host)?,
        })
    }

    /// The buffer of a slot of tier 0.
    pub fn device(&self, slot: SlotId) -> &Buffer {
        assert_eq!(slot.tier, 0, "the backend's memory is tier 0");
        &self.device[slot.class][slot.index]
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

fn carve_all(
    backend: &dyn Backend,
    layout: &SlotLayout,
) -> Result<Vec<Vec<Buffer>>, AllocateError> {
    let mut classes = Vec::new();
    for class in layout.classes() {
        let slot_bytes = class.slot_bytes as usize;
        let mut slots = Vec::with_capacity(class.slots);
        for count in class.extents() {
            let extent = backend.allocate_extent(count * slot_bytes)?;
            slots.extend(
                (0..count).map(|i| backend.carve(&extent, i * slot_bytes..(i + 1) * slot_bytes)),
            );
        }
        classes.push(slots);
    }
    Ok(classes)
}

fn allocate_host(layout: &SlotLayout) -> Result<Vec<Vec<Option<HostSlot>>>, StoreError> {
    let allocate = |class| allocate_slots(class).map(|slots| slots.into_iter().map(Some).collect());
    let classes: std::io::Result<_> = layout.classes().iter().copied().map(allocate).collect();
    classes.map_err(|error| {
        let wanted = ByteCount(layout.bytes().0);
        AllocateError {
            backend: "host tier",
            wanted,
            reason: error.to_string(),
        }
        .into()
    })
}

#pragma once

#include "session/checkout.h"
#include "session/memory_image.h"
#include "session/publisher.h"
#include "support/parcel_place.h"

namespace isr::test {

/// The parcel "work", checked out.
struct CheckedOut : ParcelPlace {
  CheckedOut() { check_out(account, parcel, LockMode::kAttended, {}, {}); }

  fs::path state_file() const { return account.host.parcel_directory(parcel) / "session"; }
  /// The state as read from its file.
  SessionState written() const {
    return *read_session_state(state_file().parent_path(), account.host.device_key, parcel.id);
  }
};

/// The parts of the parcel's session, made as Session makes them, but without a Session. The journal is replayed.
struct SessionParts {
  explicit SessionParts(CheckedOut& place)
      : state(place.account.host, place.parcel),
        objects(place.account, state.directory()),
        lock(place.account, place.parcel, state),
        heads(place.account, place.parcel, state, lock),
        images(place.account.host, place.parcel, state, objects),
        settler(images, objects),
        prefetch(place.account.host, place.parcel, state, images, objects),
        memory(place.parcel, state, images, objects, prefetch),
        publisher({place.account, place.parcel, state, objects, images, settler, prefetch, memory, heads}) {
    images.open();
  }
  ~SessionParts() { objects.cancel(); }
  SessionParts(const SessionParts&) = delete;
  SessionParts& operator=(const SessionParts&) = delete;

  StateFile state;
  SessionObjects objects;
  SessionLock lock;
  HeadPublisher heads;
  SessionImages images;
  Settler settler;
  BootPrefetch prefetch;
  MemoryImage memory;
  Publisher publisher;
};

inline VmStamp some_stamp() {
  VmStamp stamp;
  stamp.qemu_version = "7.2.22";
  stamp.machine = "pc-q35-7.2";
  stamp.cpu_model = "qemu64";
  stamp.accelerator = "tcg";
  return stamp;
}

inline Bytes read_image(Image& image, std::size_t length) {
  Bytes bytes(length);
  image.read(0, bytes);
  return bytes;
}

/// While this object lives, the state of a session cannot be written.
struct UnwritableState {
  explicit UnwritableState(const CheckedOut& place) : file(place.state_file()), kept(place.directory.path() / "kept") {
    fs::rename(file, kept);
    fs::create_directory(file);
  }
  ~UnwritableState() {
    fs::remove(file);
    fs::rename(kept, file);
  }
  UnwritableState(const UnwritableState&) = delete;
  UnwritableState& operator=(const UnwritableState&) = delete;
  fs::path file, kept;
};

}  // namespace isr::test

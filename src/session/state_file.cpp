#include "session/state_file.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "base/log.h"

namespace isr {
namespace {

/// Returns 0 when there is no such file.
ino_t inode_of(const fs::path& file) {
  struct stat status {};
  return ::stat(file.c_str(), &status) == 0 ? status.st_ino : 0;
}

}  // namespace

void refuse_without_session(const ParcelEntry& parcel) {
  throw Error(ErrorKind::kNotFound, fmt::format("{} is not checked out here", parcel.name));
}

StateFile::StateFile(const HostState& host, const ParcelEntry& parcel)
    : host_(host), directory_(host.parcel_directory(parcel)) {
  auto state = read_session_state(directory_, host.device_key, parcel.id);
  if (!state) refuse_without_session(parcel);
  state_ = std::move(*state);
}

void StateFile::save() {
  write_session_state(directory_, host_.device_key, state_);
  is_uncertain_ = is_behind_ = false;
}

void StateFile::try_to_save() noexcept {
  try {
    save();
  } catch (const std::exception& error) {
    log::warn("{}", error.what());
  }
}

/// Writes the file first and changes the state in memory only then, because data that the new state no longer names may
/// be dropped only once the file is durable. A failure may come after the file was replaced, so the old contents are
/// written back.
void StateFile::change(const Change& change) {
  SessionState next = state_;
  change(next);
  const auto before = inode_of(directory_ / "session");
  try {
    write_session_state(directory_, host_.device_key, next);
  } catch (...) {
    if (inode_of(directory_ / "session") != before) {
      is_uncertain_ = true;
      try_to_save();
    }
    throw;
  }
  state_ = std::move(next);
  is_uncertain_ = is_behind_ = false;
}

void StateFile::make_certain() {
  if (is_uncertain_) save();
}

void StateFile::write_if_behind() {
  if (is_behind_ || is_uncertain_) save();
}

}  // namespace isr

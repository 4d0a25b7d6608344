#include "session/session_state.h"

#include <fmt/format.h>
#include <linux/limits.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/file_lock.h"
#include "base/whole_file.h"

namespace isr {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxStateSize = 4U << 20U;
constexpr const char* kControlNote = "control";
constexpr std::string_view kFormat = "isr1-session";

std::string context(const std::string& parcel_id) { return "isr1/session|" + parcel_id; }

SecretKey state_key(const Key& device_key) { return hkdf_sha256(device_key.view(), {}, "isr1/session-state"); }

json voids_to_json(const std::map<std::uint16_t, std::uint64_t>& voids) {
  json out = json::array();
  for (const auto& [number, below] : voids) out.push_back({number, below});
  return out;
}

/// Encodes a session's images as a version, so that there is one encoding for both.
json images_to_json(const SessionState& state) {
  ParcelVersion now;
  json numbers = json::array();
  for (const SessionImage& image : state.images) {
    now.images.push_back(image.image);
    numbers.push_back({image.number, image.void_below});
  }
  now.vm = state.vm;
  now.stamp = state.stamp;
  return {{"now", json::parse(as_text(encode_version(now)))}, {"numbers", numbers}};
}

void images_from_json(const json& in, SessionState& state) {
  ParcelVersion now = parse_version(as_bytes(in.at("now").dump()));
  const json& numbers = in.at("numbers");
  if (numbers.size() != now.images.size())
    throw Error(ErrorKind::kCorrupt, "the session's images and their numbers do not match");
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    state.images.push_back(
        {numbers[i].at(0).get<std::uint16_t>(), now.images[i], numbers[i].at(1).get<std::uint64_t>()});
  }
  state.vm = now.vm;
  state.stamp = now.stamp;
}

json to_json(const SessionState& state) {
  json out{{"format", kFormat},
           {"parcel", state.parcel_id},
           {"name", state.parcel_name},
           {"phase", to_name(state.phase)},
           {"base", state.base},
           {"base_hash", to_hex(state.base_hash.view())},
           {"content", state.content},
           {"base_version", json::parse(as_text(encode_version(state.base_version)))},
           {"since", to_rfc3339(state.since)},
           {"hold", state.hold},
           {"attended", state.lock_mode == LockMode::kAttended},
           {"upload_begun", state.upload_begun},
           {"images", images_to_json(state)}};
  for (const PendingPublish& pending : state.pending) {
    out["pending"].push_back(
        {{"n", pending.n}, {"hash", to_hex(pending.hash.view())}, {"void_below", voids_to_json(pending.void_below)}});
  }
  return out;
}

SessionState from_json(const json& in) {
  if (in.at("format") != kFormat) throw Error(ErrorKind::kUnsupported, "the session has an unknown format");
  SessionState state;
  state.parcel_id = in.at("parcel").get<std::string>();
  state.parcel_name = in.at("name").get<std::string>();
  const auto phase = phase_from_name(in.at("phase").get<std::string>());
  if (!phase) throw Error(ErrorKind::kCorrupt, "the session has an unknown phase");
  state.phase = *phase;
  state.base = in.at("base").get<std::uint64_t>();
  state.base_hash = fixed_from_hex<Sha256>(in.at("base_hash").get<std::string>()).value();
  state.content = in.at("content").get<std::uint64_t>();
  state.base_version = parse_version(as_bytes(in.at("base_version").dump()));
  state.since = from_rfc3339(in.at("since").get<std::string>()).value();
  state.hold = in.at("hold").get<std::string>();
  state.lock_mode = in.at("attended").get<bool>() ? LockMode::kAttended : LockMode::kCheckout;
  state.upload_begun = in.at("upload_begun").get<bool>();
  images_from_json(in.at("images"), state);
  if (in.contains("pending")) {
    for (const json& entry : in.at("pending")) {
      PendingPublish& pending = state.pending.emplace_back();
      pending.n = entry.at("n").get<std::uint64_t>();
      pending.hash = fixed_from_hex<Sha256>(entry.at("hash").get<std::string>()).value();
      for (const json& pair : entry.at("void_below")) {
        pending.void_below[pair.at(0).get<std::uint16_t>()] = pair.at(1).get<std::uint64_t>();
      }
    }
  }
  return state;
}

VersionImage placeholder(std::string_view name, ImageRole role, std::uint64_t size) {
  return {std::string(name), role, TreeRoot{size, {}}};
}

std::string short_id(const std::string& parcel_id) { return parcel_id.substr(0, 12); }

}  // namespace

namespace {

template <class Images>
auto find_image(Images& images, std::string_view name) -> decltype(images.data()) {
  const auto it = std::find_if(images.begin(), images.end(), [&](const auto& i) { return i.image.name == name; });
  return it == images.end() ? nullptr : &*it;
}

}  // namespace

SessionImage* SessionState::find(std::string_view name) { return find_image(images, name); }
const SessionImage* SessionState::find(std::string_view name) const { return find_image(images, name); }

const PendingPublish* SessionState::find_pending(const StoredHead& head) const {
  const auto it = std::find_if(pending.begin(), pending.end(), [&](const PendingPublish& one) {
    return one.n == head.head.n && one.hash == head.hash;
  });
  return it == pending.end() ? nullptr : &*it;
}

bool SessionState::is_upload_due() const {
  if (phase != SessionPhase::kSuspended) return false;
  const VersionImage* published = base_version.find(ImageRole::kDevice);
  // Every suspend writes the device state anew, and only a publish gives it a tree. So equal trees mean that this
  // suspend was published.
  return std::none_of(images.begin(), images.end(), [&](const SessionImage& image) {
    return published && image.image.name == published->name && image.image.content == published->content;
  });
}

std::vector<SessionImage> number_images(const ParcelVersion& version) {
  std::vector<SessionImage> images;
  const auto add = [&](const VersionImage& image) {
    images.push_back({static_cast<std::uint16_t>(images.size()), image, 0});
  };
  for (const VersionImage& image : version.images) {
    if (is_disk(image.role)) add(image);
  }
  for (const RoleRules& rules : image_roles()) {
    if (rules.is_disk || !rules.is_checked_out) continue;
    const VersionImage* const there = version.find(rules.name);
    const std::uint64_t size = rules.role == ImageRole::kMemory ? version.vm.memory_bytes : kNoDeviceState;
    add(there ? *there : placeholder(std::string(rules.name), rules.role, size));
  }
  return images;
}

std::optional<SessionState> read_session_state(const fs::path& parcel_directory, const Key& device_key,
                                               const std::string& parcel_id) {
  const fs::path file = parcel_directory / "session";
  const auto box = read_file_if_exists(file, kMaxStateSize);
  if (!box) return std::nullopt;
  const auto plain = open_box(state_key(device_key), as_bytes(context(parcel_id)), *box);
  if (!plain) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{} is damaged; the journal beside it is untouched", file.string()));
  }
  try {
    return from_json(json::parse(as_text(*plain)));
  } catch (const json::exception& error) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: {}", file.string(), error.what()));
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", file.string(), error.what()), error.hints());
  }
}

void write_session_state(const fs::path& parcel_directory, const Key& device_key, const SessionState& state) {
  const std::string text = to_json(state).dump();
  replace_file(parcel_directory / "session",
               seal_box(state_key(device_key), as_bytes(context(state.parcel_id)), as_bytes(text)));
}

std::optional<LocalState> local_state(const HostState& host, const ParcelEntry& parcel) {
  const fs::path directory = host.parcel_directory(parcel);
  const auto read = [&] { return read_session_state(directory, host.device_key, parcel.id); };
  auto state = read();
  if (!state) return std::nullopt;
  LocalState local;
  local.daemon_alive = FileLock::is_held(directory / "lock");
  // The daemon may have changed or ended the session after the first read.
  if (!local.daemon_alive) state = read();
  if (!state) return std::nullopt;
  local.base = state->base;
  local.since = state->since;
  local.upload_due = state->is_upload_due();
  switch (state->phase) {
    case SessionPhase::kCheckedOut:
      local.state = "checked out";
      break;
    case SessionPhase::kSuspended:
      local.state = "suspended here";
      break;
    case SessionPhase::kRunning:
      local.state = local.daemon_alive ? "running" : "crashed";
      break;
  }
  return local;
}

fs::path mount_directory(const Paths& paths, const std::string& parcel_id) {
  return paths.runtime / "mnt" / short_id(parcel_id);
}
fs::path control_socket(const Paths& paths, const std::string& parcel_id) {
  return paths.runtime / "ctl" / short_id(parcel_id);
}
fs::path control_socket(const HostState& host, const ParcelEntry& parcel) {
  const fs::path directory = host.parcel_directory(parcel);
  // Without a daemon that holds this directory, the note may have been copied from another directory.
  std::optional<Bytes> noted;
  if (FileLock::is_held(directory / "lock")) noted = read_file_if_exists(directory / kControlNote, PATH_MAX);
  return noted && !noted->empty() ? fs::path(std::string(as_text(*noted))) : control_socket(host.paths, parcel.id);
}
void note_control_socket(const HostState& host, const ParcelEntry& parcel) {
  replace_file(host.parcel_directory(parcel) / kControlNote, as_bytes(control_socket(host.paths, parcel.id).native()));
}
fs::path vm_directory(const Paths& paths, const std::string& parcel_id) {
  return paths.runtime / "vm" / short_id(parcel_id);
}

}  // namespace isr

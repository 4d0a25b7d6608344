#include "account/host_state.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/whole_file.h"

namespace isr {
namespace {

constexpr std::size_t kMaxSmallFile = 4096;

[[noreturn]] void refuse_device_key(const fs::path& file, std::string_view why) {
  throw Error(ErrorKind::kCorrupt, fmt::format("{} {}", file.string(), why),
              {"unsynced changes on this host are sealed under this key: restore the file from a backup,",
               fmt::format("or give up the changes: mv {0} {0}.broken", file.parent_path().string())});
}

/// `in_use`: data on this host is sealed under the key already.
SecretKey open_device_key(const fs::path& file, const UserKeys& keys, bool in_use) {
  const SecretKey wrapping = hkdf_sha256(keys.domain_secret.view(), {}, "isr1/device");
  const Bytes aad = to_bytes(as_bytes("isr1/device-key"));
  if (const auto box = read_file_if_exists(file, kMaxSmallFile)) {
    SecretKey key;
    if (!open_box(wrapping, aad, *box, key.mutable_view())) {
      refuse_device_key(file, "does not open: it is damaged, or belongs to another user");
    }
    return key;
  }
  if (in_use) refuse_device_key(file, "is missing");
  const SecretKey key = random_key();
  if (create_file(file, seal_box(wrapping, aad, key.view())) == CreateResult::kCreated) return key;
  return open_device_key(file, keys, in_use);  // another process wrote the file first
}

/// The id includes the place, because a copy of the home directory has equal files and must not pass for this host.
std::string host_id(const fs::path& state_directory, const Key& device_key) {
  const auto machine = read_file_if_exists("/etc/machine-id", kMaxSmallFile).value_or(Bytes{});
  return host_id_of(device_key, as_text(machine), fs::canonical(state_directory).string());
}

/// The host's name in the form that heads and locks allow: check_user_name().
std::string host_name() {
  std::array<char, 256> raw{};
  if (::gethostname(raw.data(), raw.size() - 1) != 0) return "host";
  std::string name;
  for (const char c : std::string_view(raw.data()).substr(0, 64)) {
    const char small = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    const bool good = (small >= 'a' && small <= 'z') || (small >= '0' && small <= '9') || small == '-' ||
                      small == '.' || small == '_';
    name += good ? small : '-';
  }
  const bool starts_well = !name.empty() && name[0] != '-' && name[0] != '.' && name[0] != '_';
  return starts_well ? name : "host" + name.substr(0, 60);
}

}  // namespace

/// '+' replaces '/', because no chain's name has a '+'.
fs::path HostState::kept_head(std::string chain) const {
  std::replace(chain.begin(), chain.end(), '/', '+');
  return state_directory / "heads" / chain;
}

fs::path state_directory_of(const Paths& paths, const RepositoryInfo& info, const std::string& user) {
  return paths.state / info.id / user;
}

HostState open_host_state(const Paths& paths, const RepositoryInfo& info, const UserKeys& keys, const Config& config) {
  HostState host;
  host.paths = paths;
  host.config = config;
  host.state_directory = state_directory_of(paths, info, keys.user);
  make_private_directory(host.state_directory);
  const fs::path trust = host.state_directory / "trust.db";
  const bool in_use = fs::exists(trust);  // first, as another process may be making both, the key first
  host.device_key = open_device_key(host.state_directory / "device-key", keys, in_use);
  host.holder = {host_name(), host_id(host.state_directory, host.device_key)};
  host.trust = std::make_shared<TrustStore>(trust, host.device_key);
  return host;
}

std::string host_id_of(const Key& device_key, std::string_view machine_id, std::string_view state_directory) {
  SecretText text("isr1/host-id");
  for (const std::string_view part : {as_text(device_key.view()), machine_id, state_directory}) {
    text.append({"", 1});
    text.append(part);
  }
  const Sha256 digest = sha256(as_bytes(text));
  return to_hex(digest.view().first(16));
}

}  // namespace isr

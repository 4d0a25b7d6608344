#include "account/newest_keybox.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/whole_file.h"

namespace isr {
namespace {

constexpr std::size_t kMaxKeyboxSize = 64U << 10U;

[[noreturn]] void refuse_unknown_user(const RepositoryEntry& entry) {
  throw Error(ErrorKind::kDenied, fmt::format("{} has no user \"{}\"", entry.name, entry.user),
              {fmt::format("if the name is wrong: isr repo rm {} && isr repo add {} {} --user NAME", entry.name,
                           entry.name, entry.url)});
}

/// The repository's newest keybox; nullopt, and the remote is offline from then on, when it does not answer.
std::optional<StoredKeybox> fetch_keybox(Remote& remote) {
  const RepositoryEntry& entry = remote.entry;
  if (!remote.store) return std::nullopt;
  try {
    auto box = read_keybox(*remote.store, entry.user);
    if (!box) refuse_unknown_user(entry);
    return box;
  } catch (const Error& error) {
    if (!is_unreachable(error)) throw;
    log::warn("{}: {}; working offline", entry.name, error.what());
    remote.store = nullptr;
    return std::nullopt;
  }
}

/// Opens the keybox. When the password is wrong, explains why a password that was once right may not be any more.
UserKeys open_for(const RepositoryEntry& entry, ByteView blob, const std::optional<Bytes>& kept,
                  const KeyboxSecret& secret) {
  try {
    return open_keybox(blob, entry.user, secret);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDenied || std::holds_alternative<SecretKey>(secret)) throw;
    std::vector<std::string> hints;
    if (kept && !std::ranges::equal(*kept, blob))
      hints.push_back("the password was changed since it was last used on this host: type the new one");
    hints.push_back("if the password is lost, the recovery key opens everything: see isr passwd --help");
    throw Error(error.kind(), error.what(), std::move(hints));
  }
}

/// Call in a handler: rethrows unless the blob is junk in the place of a keybox and this host keeps one that opened
/// before.
void pass_over_junk(const Error& error, const RepositoryEntry& entry, bool is_kept) {
  if (error.kind() != ErrorKind::kCorrupt) throw;
  if (!is_kept) {
    throw Error(error.kind(), error.what(),
                {fmt::format("on a host that has used {} before, isr passwd {} stores a good keybox after it",
                             entry.name, entry.name)});
  }
  log::warn("{}: the newest keybox of {} cannot be read ({}); using the one that is kept on this host", entry.name,
            entry.user, error.what());
}

}  // namespace

std::optional<Bytes> read_kept_keybox(const fs::path& directory) {
  return read_file_if_exists(directory / "keybox", kMaxKeyboxSize);
}

void keep_keybox(const fs::path& directory, ByteView blob) {
  make_private_directory(directory);
  replace_file(directory / "keybox", blob);
}

NewestKeybox fetch_newest_keybox(Remote& remote, const std::optional<Bytes>& kept) {
  const RepositoryEntry& entry = remote.entry;
  NewestKeybox newest;
  try {
    if (auto box = fetch_keybox(remote)) return {box->n, std::move(box->blob)};
  } catch (const Error& error) {
    pass_over_junk(error, entry, kept.has_value());
    newest.n = newest_keybox_number(*remote.store, entry.user);
  }
  if (!kept) {
    throw Error(ErrorKind::kOffline,
                fmt::format("{} does not answer, and {} has never logged in on this host", entry.name, entry.user),
                {"run isr login once while the repository can be reached"});
  }
  newest.blob = *kept;
  return newest;
}

UserKeys open_newest(NewestKeybox& newest, const RepositoryEntry& entry, const std::optional<Bytes>& kept,
                     const KeyboxSecret& secret) {
  try {
    return open_for(entry, newest.blob, kept, secret);
  } catch (const Error& error) {
    if (newest.blob == kept) throw;
    pass_over_junk(error, entry, kept.has_value());
  }
  newest.blob = *kept;
  return open_for(entry, *kept, kept, secret);
}

}  // namespace isr

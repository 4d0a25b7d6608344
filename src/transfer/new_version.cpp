#include "transfer/new_version.h"

#include <fmt/format.h>

#include "base/log.h"
#include "repository/sequence.h"
#include "session/held_lock.h"

namespace isr {
namespace {

ParcelEntry new_entry(const std::string& name) {
  check_parcel_name(name);
  ParcelEntry parcel;
  const SecretKey random = random_key();
  parcel.id = to_hex(random.view().first(16));
  parcel.name = name;
  parcel.epoch_keys[1] = random_key();
  return parcel;
}

void add_to_profile(Account& account, const ParcelEntry& parcel, const std::stop_token& stop) {
  const auto add = [&](Profile& profile) {
    for (const ParcelEntry& other : profile.parcels) {
      if (other.name == parcel.name) {
        throw Error(ErrorKind::kUsage, fmt::format("a parcel called {} exists", parcel.name));
      }
    }
    profile.parcels.push_back(parcel);
  };
  change_profile(account, add, stop);
}

/// Publishes the head before the profile names it: a name without a version could neither be opened nor be given to
/// another parcel, but a head without a name is never looked for. Only a refusal proves that no profile names the head;
/// after any other failure it stays.
void publish_first(Account& account, const ParcelEntry& parcel, const ParcelVersion& version,
                   const std::stop_token& stop) {
  const Bytes blob = make_head(account, parcel, {}, version);
  if (!account.chain(parcel.chain(), stop).publish(1, blob)) {
    throw Error(ErrorKind::kBug, "the id of the new parcel is taken");
  }
  try {
    add_to_profile(account, parcel, stop);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUsage) throw;
    try {
      account.remote.store->remove(sequence_name(parcel.chain() + "/heads", 1));
    } catch (const Error& left) {
      log::warn("the parcel was not made, but its head could not be removed from the repository: {}", left.what());
    }
    throw;
  }
}

/// Runs body under the parcel's lock, and gives the lock back in any case.
void with_lock(const Account& account, const ParcelEntry& parcel, const LockBase& base,
               const std::optional<std::string>& steal_reason, const std::stop_token& stop,
               const std::function<void()>& body) {
  const std::string hold = take_lock(account, parcel, LockMode::kAttended, base, steal_reason, stop).hold;
  try {
    body();
  } catch (...) {
    give_back_lock(account, parcel.id, hold, stop);
    throw;
  }
  give_back_lock(account, parcel.id, hold, stop);
}

}  // namespace

ParcelEntry create_parcel(Account& account, const std::string& name, const ParcelVersion& version,
                          const std::stop_token& stop) {
  ParcelEntry parcel = new_entry(name);
  publish_first(account, parcel, version, stop);
  return parcel;
}

ParcelEntry branch_parcel(Account& account, const ParcelEntry& parcel, const LoadedVersion& from,
                          const std::string& name, const std::stop_token& stop) {
  ParcelEntry made = new_entry(name);
  ParcelVersion version = from.version;
  version.copy_of = fmt::format("{}@{}", parcel.name, from.label());
  version.message = "branch of " + version.copy_of;
  version.added_bytes = 0;
  const TakenParcel taken(account.host, made);
  with_lock(account, made, base_of(parcel, from.head), {}, stop, [&] { publish_first(account, made, version, stop); });
  return made;
}

std::uint64_t roll_back(Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                        const std::optional<std::string>& steal_reason, const std::stop_token& stop) {
  const TakenParcel taken(account.host, parcel);
  if (fs::exists(account.host.parcel_directory(parcel) / "session")) {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here", parcel.name));
  }
  LoadedVersion old = load_version(account, parcel, choice, stop);
  const StoredHead before = load_version(account, parcel, {}, stop).head;
  old.version.copy_of = fmt::format("{} {}", old.fork.empty() ? "version" : "fork", old.label());
  old.version.message = "rollback to " + old.label();
  old.version.added_bytes = 0;
  Chain chain = account.chain(parcel.chain(), stop);
  const HeadPlace next = chain.next(before);
  bool published = false;
  with_lock(account, parcel, base_of(parcel, before), steal_reason, stop, [&] {
    const Bytes blob = make_head(account, parcel, next, old.version);
    published = chain.publish(next.n, blob).has_value();
  });
  if (!published) {
    throw Error(
        ErrorKind::kHistory,
        fmt::format("another host published version {} of {} first; nothing was rolled back", next.n, parcel.name),
        {fmt::format("isr log {}    shows that version; run the command again to put the copy on top of it",
                     parcel.name)});
  }
  return next.n;
}

}  // namespace isr

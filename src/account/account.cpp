#include "account/account.h"

#include <fmt/format.h>

namespace isr {

Chain Account::chain(const std::string& id, std::stop_token stop) const {
  remote.online("reading versions");
  return {make_stoppable(remote.store, std::move(stop)), id, identity.signing.public_key, host.trust,
          host.kept_head(id)};
}

std::optional<StoredHead> Account::newest_head(const std::string& chain, std::stop_token stop) const {
  if (!remote.offline()) return this->chain(chain, std::move(stop)).newest();
  return Chain(nullptr, chain, identity.signing.public_key, host.trust, host.kept_head(chain)).kept();
}

ParcelLock Account::lock(const ParcelEntry& parcel, std::stop_token stop) const {
  remote.online(fmt::format("the lock of {}", parcel.name));
  return {make_stoppable(remote.store, std::move(stop)), parcel.chain(), identity.signing, host.holder, host.lease()};
}

LockBase base_of(const ParcelEntry& parcel, const StoredHead& head) {
  return {.chain = parcel.chain(), .n = head.head.n, .hash = head.hash};
}

}  // namespace isr

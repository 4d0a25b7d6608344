#include "cli/new_session.h"

#include "cli/take_lock.h"
#include "daemon/session_daemon.h"
#include "session/checkout.h"

namespace isr {

VersionSelector wanted_version(const OpenParcel& parcel, const std::optional<std::string>& option) {
  return option ? parse_version_selector(*option) : parcel.version;
}

fs::path take_out(CommandContext& context, OpenParcel& parcel, LockMode mode, const VersionChoice& choice,
                  bool take_lock) {
  take_over_if_agreed(context, parcel, take_lock, [&](const std::optional<std::string>& steal_reason) {
    check_out(parcel.account, parcel.entry, mode, choice, steal_reason, context.stop());
  });
  try {
    return start_session_daemon(parcel.account, parcel.entry, context.stop());
  } catch (const Error&) {
    undo_check_out(parcel.account, parcel.entry, context.stop());
    throw;
  }
}

}  // namespace isr

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "account/account.h"
#include "account/open_account.h"
#include "cli/names.h"
#include "cli/output.h"
#include "host/config.h"
#include "repository/store_waits.h"

namespace isr {

/// Flags that every command takes, before or after its name.
struct GlobalFlags {
  bool quiet = false;
  int verbose = 0;
  bool json = false;
  bool offline = false;  ///< also set by offline = true in the configuration
  bool yes = false;
  bool no_input = false;
  std::string repo;
  std::string config_file;
  std::string color = "auto";     ///< auto, always, never
  std::string progress = "auto";  ///< auto, bar, plain, json, none
  std::string password_file;      ///< "-": stdin
  std::string password_command;
  std::string bwlimit;
  std::string log_level;
  std::string log_file;
};

/// A parcel that a command was given, with its account.
struct OpenParcel {
  Account account;
  ParcelEntry entry;
  VersionSelector version;  ///< the text after '@'
};

/// For commands that show what this host knows: no call waits longer than 2 s for a server.
StoreOptions impatient();

/// The resources of a running command. Disk and network are used only when something is requested, so that help,
/// version and doctor work on a broken system.
class CommandContext {
 public:
  CommandContext(GlobalFlags global_flags, std::function<std::stop_token()> stop);

  const GlobalFlags flags;
  const Output out;
  /// Requested by the first Ctrl-C. The command must then end with Error{kCancelled}, exit 130. The first Ctrl-C ends a
  /// command at once that never called this.
  std::stop_token stop() const { return stop_(); }
  /// Throws Error{kCancelled} once stop was requested.
  void check_stop() const;

  const Paths& paths();
  Config& config();
  bool offline();
  /// The entry called `name`; "" means --repo, else the default repository. Error{kNotFound} lists the names that
  /// exist.
  RepositoryEntry repository(const std::string& name = {});
  /// Opens the account, asking for the password if necessary.
  Account open_account(const std::string& repository_name = {});
  /// With the given time-outs; `local`: as if --offline were given.
  Account open_account(const std::string& repository_name, StoreOptions store, bool local);
  /// Opens "[REPO:]PARCEL[@VERSION]". Error{kUsage}, {kNotFound}.
  OpenParcel open_parcel(const std::string& name);
  /// As open_parcel(), where a version makes no sense: Error{kUsage} when one is given.
  OpenParcel open_parcel_without_version(const std::string& name);
  /// As open_parcel(), for answers that come from this host alone. The repository is asked only about a parcel or an
  /// account that this host does not know.
  OpenParcel open_local_parcel(const std::string& name);

 private:
  void tell_of_waits(const std::string& repository);

  std::function<std::stop_token()> stop_;
  std::optional<Paths> paths_;
  std::optional<Config> config_;
  std::shared_ptr<StoreWaits> waits_ = std::make_shared<StoreWaits>();
  std::jthread waits_teller_;  ///< declared last: the thread uses the other members
};

}  // namespace isr

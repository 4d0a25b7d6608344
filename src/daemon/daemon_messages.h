#pragma once

#include <nlohmann/json.hpp>

#include "machine/machine.h"
#include "session/session.h"

/// Requests and answers of a session daemon that have more than a field or two, as JSON. control.h says how they
/// travel.
namespace isr {

/// Of start and resume. `memory` is the setting vm.memory. Error{kUsage} for a value that is none of its kind; what
/// nlohmann::json throws for one of another type.
BootOptions parse_boot_options(const nlohmann::json& request, const std::string& memory);
nlohmann::json describe_boot(bool resumed, const BootOptions& options, const Machine& machine, const Session& session);
/// The part of a status that session and machine know.
nlohmann::json describe_session(const Session& session, const Machine& machine);
nlohmann::json describe_publish(const PublishResult& result);
/// The guest did not shut down within the time that `isr stop` gives it.
Error still_running(const std::string& parcel, std::chrono::seconds timeout);

}  // namespace isr

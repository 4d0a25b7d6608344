#pragma once

#include <stop_token>

#include "daemon/control_server.h"
#include "daemon/protocol.h"
#include "machine/machine.h"
#include "vm/serial_console.h"

namespace isr {

/// The daemon's request "console": sends what the guest said from the request's offset on and, with
/// follow, goes on to its last word: a console is followed beyond the end of its VM.
ConsoleAnswer follow_console(const SerialConsole& console, const ConsoleRequest& request, const ControlReply& reply,
                             const std::stop_token& stop);

/// The request "type": writes its text to the console.
TypeAnswer type_text(SerialConsole& console, const TypeRequest& request);
/// The console of the machine that runs; Error{kVm}, naming the parcel, when none does.
std::shared_ptr<SerialConsole> console_of(const Machine& machine, const std::string& parcel);

}  // namespace isr

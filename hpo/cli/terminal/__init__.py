"""What commands share: options, context, errors, signals, tables and live views."""

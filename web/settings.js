// What an artist can set once for all graphs: the server reads it from where ComfyUI keeps its settings.
import { app } from "../../scripts/app.js";

app.registerExtension({
    name: "blade.settings",
    settings: [
        {
            id: "BLADE.Clips.Subfolders",
            category: ["BLADE", "Clips", "Subfolders"],
            name: "List the clips of subfolders",
            tooltip: "Load Video (BLADE) and Encode Video (BLADE) list what lies in the subfolders of ComfyUI's input folder too. Press R on the page afterwards.",
            type: "boolean",
            defaultValue: true,
        },
    ],
});

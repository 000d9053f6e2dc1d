/** The plugin: builds the panel, its commands and its settings. */

import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, WidgetTracker } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';

import { Actions, type StudyName } from './actions';
import { Api } from './api';
import { addCommands, ids } from './commands';
import { FormState } from './form';
import { KernelVariables } from './kernel';
import { Live } from './live';
import { type PanelModel, QuantPanel } from './panel';
import { readSettings, type Settings, shownClusters, shownStudies } from './settings';
import { StudyWidget } from './studyWidget';
import type { ClusterList, Service, StudyList } from './types';

const ID = 'quanttaas-jupyter:panel';
const CLUSTERS_MILLISECONDS = 15_000;
const SERVICE_MILLISECONDS = 60_000;

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Compress models of the notebook, and watch all studies.',
  autoStart: true,
  requires: [INotebookTracker, IStateDB],
  optional: [ICommandPalette, ILayoutRestorer, ISettingRegistry],
  activate: async (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    database: IStateDB,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    registry: ISettingRegistry | null
  ) => {
    const loaded = registry ? await registry.load(ID).catch(() => null) : null;
    const settings = (): Settings => readSettings(loaded);
    const api = new Api(app.serviceManager.serverSettings);
    const kernel = new KernelVariables(tracker);
    const pages = new WidgetTracker<StudyWidget>({ namespace: 'quanttaas-studies' });

    const open = (study: StudyName): void => {
      const known = pages.find(page => page.study.id === study.id && page.study.store === study.store);
      if (known) {
        app.shell.activateById(known.id);
        return;
      }
      const page = new StudyWidget(study, api, actions, settings().pollMilliseconds);
      app.shell.add(page, 'main');
      void pages.add(page);
      app.shell.activateById(page.id);
    };
    const refresh = (): void => {
      void studies.refresh();
      void clusters.refresh();
      pages.forEach(page => page.refreshStudy());
    };
    const actions = new Actions({ api, tracker, kernel, open, refresh });

    const isWatched = (): boolean => panel.isVisible;
    const service = new Live<Service>({
      name: 'quanttaas:service',
      interval: SERVICE_MILLISECONDS,
      ask: async () => ({ tag: '', value: await api.service() }),
      isWatched
    });
    const studies = new Live<StudyList>({
      name: 'quanttaas:studies',
      interval: settings().pollMilliseconds,
      ask: async tag => shownStudies(await api.studies(tag), settings()),
      isWatched
    });
    const clusters = new Live<ClusterList>({
      name: 'quanttaas:clusters',
      interval: CLUSTERS_MILLISECONDS,
      ask: async tag => shownClusters(await api.clusters(tag), settings()),
      isWatched
    });
    const form = new FormState(database);
    const model: PanelModel = { api, actions, kernel, form, service, studies, clusters };
    const panel = new QuantPanel(model);

    panel.shown.connect((_, shown) => {
      kernel.isShown = shown;
      if (shown) {
        void service.refresh();
        refresh();
      }
    });
    service.changed.connect((_, known) => {
      if (known.value && !form.form) {
        void form.begin(known.value.form.start, settings().defaults).then(suggest);
      }
    });
    const suggest = (): void => {
      if (kernel.state.variables) {
        form.suggest(kernel.state.variables);
      }
    };
    kernel.changed.connect(suggest);
    loaded?.changed.connect(() => {
      studies.interval = settings().pollMilliseconds;
      void studies.renew();
      void clusters.renew();
    });

    addCommands(app, { panel, actions, tracker, refresh, open });
    for (const command of Object.values(ids)) {
      if (command !== ids.openStudy) {
        palette?.addItem({ command, category: 'QuantTaaS' });
      }
    }
    app.shell.add(panel, 'left', { rank: 700, type: 'QuantTaaS' });
    restorer?.add(panel, panel.id);
    void restorer?.restore(pages, {
      command: ids.openStudy,
      args: page => ({ ...page.study }),
      name: page => `${page.study.store} ${page.study.id}`
    });
  }
};

export default plugin;
